//! A disk that loses power: a file system of ours over FUSE, which keeps apart what was synced and what was not.
//!
//! `medium` is the disk itself and knows what a cut may leave of it; `mount` puts it below a directory.

pub mod medium;
pub mod mount;
