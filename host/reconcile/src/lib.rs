//! The loop: Key -> Snapshot -> Decision -> Plan -> Outcome, generic over ports.
