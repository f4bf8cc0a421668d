//! Mistakes in formats and envelopes.

use super::mutant::Mutant;

pub(super) const MUTANTS: &[Mutant] = &[];
