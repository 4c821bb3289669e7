//! What the program needs inside a stub domain.
