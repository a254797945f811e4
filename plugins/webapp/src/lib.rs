//! The example operator: a WebApp becomes a Deployment, a Service and what belongs to them.
