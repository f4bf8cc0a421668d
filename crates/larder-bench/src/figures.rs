//! The result of a measurement: text for a section of the page, and how it compares with the promises.

use std::fmt;

/// The text of one `<!-- figures:name -->` section of docs/performance.md.
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// Which side a promise about speed bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

/// A promise about speed, and what was measured.
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) limit: Limit,
    /// The end of an interval that is furthest on the wrong side, over everything that the promise covers.
    pub(crate) measured: f64,
    /// Where that was measured.
    pub(crate) at: String,
}

impl Bar {
    /// The bar of several measurements. Each has the end of its interval that counts (the lower one if the value should
    /// be large, the upper one if it should be small) and the place where it was measured.
    pub(crate) fn over(what: &str, limit: Limit, bounds: impl IntoIterator<Item = (f64, String)>) -> Self {
        let bounds = bounds.into_iter();
        let worst = match limit {
            Limit::AtLeast(_) => bounds.min_by(|a, b| a.0.total_cmp(&b.0)),
            Limit::AtMost(_) => bounds.max_by(|a, b| a.0.total_cmp(&b.0)),
        };
        let (measured, at) = worst.unwrap_or((f64::NAN, "not measured".to_owned()));
        Self { what: what.to_owned(), limit, measured, at }
    }

    /// Compares without rounding: 0.9499 is not 0.95.
    pub(crate) fn is_met(&self) -> bool {
        match self.limit {
            Limit::AtLeast(least) => self.measured >= least,
            Limit::AtMost(most) => self.measured <= most,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

/// The results of a subcommand.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_judged_by_the_worst_of_what_it_covers() {
        let bounds = [(1.2, "here".to_owned()), (1.4, "there".to_owned())];
        let at_most = Bar::over("time", Limit::AtMost(1.3), bounds.clone());
        assert_eq!((at_most.at.as_str(), at_most.is_met()), ("there", false));
        let at_least = Bar::over("rate", Limit::AtLeast(1.2), bounds);
        assert_eq!((at_least.at.as_str(), at_least.is_met()), ("here", true));
        assert!(!Bar::over("nothing", Limit::AtMost(1.0), []).is_met());
    }
}
