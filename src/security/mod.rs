//! PKI, tokens, authentication, authorization.
//!
//! May import: meta, kinds, env. Keys never leave this module but in files of mode 0600 and in TLS configurations.

pub mod authn;
pub mod authz;
pub mod files;
pub mod node_token;
pub mod pki;
pub mod token;

pub use authn::{Authenticator, BoundObjects, User, is_admin};
pub use authz::{Attributes, NodeOwns, authorize};
pub use node_token::NodeToken;
pub use pki::{CertKey, ClusterKey, Pki, PkiError};
pub use token::{Claims, TokenError, Tokens};
