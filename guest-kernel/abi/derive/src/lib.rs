//! Derives the description of a kernel structure.
