//! The elector, a pure state machine, and the driver that runs it on its own thread.
