//! The work queue: one entry a Key, never two passes of one Key at once.
