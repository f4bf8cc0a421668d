//! Mistakes in rate limits and the HTTP layer.

use super::mutant::Mutant;

pub(super) const MUTANTS: &[Mutant] = &[];
