//! The whole program: `csb`.
