//! Names as people type them, and what a name on the server belongs to.
