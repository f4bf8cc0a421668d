//! What a measurement hands back: text for a section of the page, and how it stands to the bars.

/// The text of one `<!-- figures:name -->` section of docs/performance.md.
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// A promise about speed, and what was measured.
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) least: f64,
    /// The lowest lower bound of all that the promise covers.
    pub(crate) measured: f64,
    /// Where that was.
    pub(crate) at: String,
}

impl Bar {
    /// The bar of several measurements, each with its lower bound and where that was.
    pub(crate) fn over(what: &str, least: f64, bounds: impl IntoIterator<Item = (f64, String)>) -> Self {
        let worst = bounds.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        let (measured, at) = worst.unwrap_or((f64::NAN, "not measured".to_owned()));
        Self { what: what.to_owned(), least, measured, at }
    }

    /// Without rounding: 0.9499 is not 0.95.
    pub(crate) fn is_met(&self) -> bool {
        self.measured >= self.least
    }
}

/// What a subcommand found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) figures: Vec<Figures>,
    pub(crate) bars: Vec<Bar>,
}

impl Findings {
    pub(crate) fn add(&mut self, name: &'static str, text: String) {
        println!("\n{text}");
        self.figures.push(Figures { name, text });
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.figures.extend(other.figures);
        self.bars.extend(other.bars);
    }
}
