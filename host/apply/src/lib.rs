//! Every write to the API server that is not the lease's: server-side apply, prune, status, finalizer, Events.
