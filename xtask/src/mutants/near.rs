//! Mistakes in the near cache.

use super::mutant::Mutant;

pub(super) const MUTANTS: &[Mutant] = &[];
