//! The same program as an ordinary user.
