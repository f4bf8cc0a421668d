//! Mistakes in reading, writing and loading.

use super::mutant::Mutant;

pub(super) const MUTANTS: &[Mutant] = &[];
