//! Mistakes in what tells others of a change.

use super::mutant::Mutant;

pub(super) const MUTANTS: &[Mutant] = &[];
