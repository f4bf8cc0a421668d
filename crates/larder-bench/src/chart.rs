//! A horizontal bar chart as SVG, readable on light and dark backgrounds.

use std::fmt::Write;

use crate::statistics::Spread;

const WIDTH: f64 = 760.0;
/// Where the bars begin, and how long a bar of 1.0 is.
const LEFT: f64 = 250.0;
const UNIT: f64 = 330.0;
const ROW: f64 = 24.0;
const LONGEST: f64 = 1.25;

pub(crate) struct Chart {
    body: String,
    bottom: f64,
    title: String,
}

impl Chart {
    pub(crate) fn new(title: &str, subtitle: &str) -> Self {
        let mut chart = Self { body: String::new(), bottom: 28.0, title: escaped(title) };
        chart.text(16.0, "title", title);
        chart.bottom += 20.0;
        chart.text(16.0, "note", subtitle);
        chart.bottom += 12.0;
        chart
    }

    pub(crate) fn group(&mut self, name: &str) {
        self.bottom += 28.0;
        self.text(16.0, "group", name);
        self.bottom += 8.0;
    }

    /// A bar as long as the median, with its interval as a line on top; `class` is `ours`, `base` or `other`.
    pub(crate) fn bar(&mut self, name: &str, class: &str, ratio: Spread) {
        let top = self.bottom;
        let at = |ratio: f64| UNIT * ratio.clamp(0.0, LONGEST);
        let baseline = top + 15.0;
        let middle = top + 10.0;
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.0}" y="{baseline:.0}" class="name" text-anchor="end">{name}</text>
<rect x="{LEFT:.0}" y="{y:.0}" width="{width:.1}" height="14" class="{class}"/>
<line x1="{from:.1}" x2="{to:.1}" y1="{middle:.0}" y2="{middle:.0}" class="interval"/>
<text x="{label:.1}" y="{baseline:.0}" class="figure">{median:.2}</text>"#,
            x = LEFT - 8.0,
            name = escaped(name),
            y = top + 3.0,
            width = at(ratio.median),
            from = LEFT + at(ratio.low),
            to = LEFT + at(ratio.high),
            label = LEFT + at(ratio.high.max(ratio.median)) + 8.0,
            median = ratio.median,
        );
        self.bottom += ROW;
    }

    pub(crate) fn finish(self) -> String {
        let height = self.bottom + 14.0;
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img" aria-label="{title}">
<style>
text {{ font: 13px system-ui, sans-serif; fill: #1f2328; }}
.title {{ font-size: 16px; font-weight: 600; }}
.group {{ font-weight: 600; }}
.note {{ fill: #59636e; }}
.ours {{ fill: #1f883d; }}
.base {{ fill: #8c959f; }}
.other {{ fill: #4d8fd6; }}
.interval {{ stroke: #1f2328; stroke-width: 2; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #f0f6fc; }}
.note {{ fill: #9198a1; }}
.ours {{ fill: #3fb950; }}
.interval {{ stroke: #f0f6fc; }}
}}
</style>
{body}</svg>
"#,
            title = self.title,
            body = self.body,
        )
    }

    fn text(&mut self, x: f64, class: &str, text: &str) {
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.0}" y="{y:.0}" class="{class}">{text}</text>"#,
            y = self.bottom,
            text = escaped(text)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_name_and_its_figure_as_text() {
        let mut chart = Chart::new("a < b", "");
        chart.group("get");
        chart.bar("larder", "ours", Spread { low: 0.9, median: 0.987, high: 1.1 });
        let svg = chart.finish();
        assert!(svg.contains("a &lt; b") && svg.contains(">larder<") && svg.contains(">0.99<"), "{svg}");
    }
}
