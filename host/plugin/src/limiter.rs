//! What one call may hold: memory and tables, all instances together.
//!
//! The engine's own limiter counts each memory by itself; a component may have
//! dozens. Here the sum counts, and a growth that is not allowed ends the call: a
//! guest that sees -1 would only abort with a worse message.

use wasmtime::{Error, ResourceLimiter, Result};
use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;

/// Core instances, memories and tables, each, in one call.
const INSTANCES_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Limiter {
    memory_left: usize,
    memory_bytes: usize,
    elements_left: usize,
    elements: usize,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory_left: limits.memory_bytes,
            memory_bytes: limits.memory_bytes,
            elements_left: limits.table_elements,
            elements: limits.table_elements,
        }
    }

    /// Bytes of linear memory that the call holds.
    pub(crate) fn memory_used(&self) -> usize {
        self.memory_bytes - self.memory_left
    }

    fn memory_refused(&self, more: usize) -> Error {
        let held = self.memory_bytes - self.memory_left;
        Error::new(Refusal::new(
            Code::MemoryLimit,
            format!(
                "asked for {} KiB on top of {} KiB of memory, limit {} KiB",
                more.div_ceil(1024),
                held / 1024,
                self.memory_bytes / 1024
            ),
        ))
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let more = desired.saturating_sub(current);
        match self.memory_left.checked_sub(more) {
            Some(left) => self.memory_left = left,
            None => return Err(self.memory_refused(more)),
        }
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        Err(Error::new(Refusal::new(Code::MemoryLimit, format!("memory cannot grow: {error}"))))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let more = desired.saturating_sub(current);
        match self.elements_left.checked_sub(more) {
            Some(left) => self.elements_left = left,
            None => {
                return Err(Error::new(Refusal::new(
                    Code::MemoryLimit,
                    format!("asked for {more} more table elements, limit {} in all", self.elements),
                )));
            }
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        Err(Error::new(Refusal::new(Code::MemoryLimit, format!("a table cannot grow: {error}"))))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        INSTANCES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_memories_share_one_limit() {
        let mut limiter =
            Limiter::new(&Limits { memory_bytes: 3 << 16, table_elements: 5, ..Limits::default() });
        assert!(limiter.memory_growing(0, 2 << 16, None).is_ok());
        assert!(limiter.memory_growing(0, 1 << 16, None).is_ok());
        assert_eq!(limiter.memory_used(), 3 << 16);
        let error = limiter.memory_growing(1 << 16, 2 << 16, None).expect_err("too much");
        let refusal = error.downcast_ref::<Refusal>().expect("ours");
        assert_eq!(refusal.code, Code::MemoryLimit);
        assert_eq!(refusal.message, "asked for 64 KiB on top of 192 KiB of memory, limit 192 KiB");
        assert!(limiter.table_growing(0, 5, None).is_ok());
        assert!(limiter.table_growing(0, 1, None).is_err());
    }
}
