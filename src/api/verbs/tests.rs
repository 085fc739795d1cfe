//! The verbs over a real store in a directory of its own.
