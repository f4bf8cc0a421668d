//! Mistakes in connections, pushes and outages.

use super::mutant::Mutant;

pub(super) const MUTANTS: &[Mutant] = &[];
