//! Images: names, the store of unpacked layers, import of archives, users of an image.
//!
//! An image is its config (whose sha256 is the image's id) and a list of unpacked layers, each a directory fit to be an
//! overlay's lower directory, kept once by its diff id. Compressed blobs are not kept.

mod archive;
mod builtin;
mod pull;
pub mod reference;
mod store;
mod unpack;
mod users;

pub use pull::PullError;
pub use reference::Reference;
pub use store::{Image, ImageError, Images};
pub use users::ResolvedUser;
