//! One file per verb of the command line. May import everything.
