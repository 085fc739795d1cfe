//! PKI, tokens, authentication, authorization. May import: meta, kinds, env.
