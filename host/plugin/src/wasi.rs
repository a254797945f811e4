//! The floor under a guest, answered from memory.
//!
//! Written here and not taken from the engine's WASI crate: that one waits on a
//! runtime of tokio behind every blocking call and brings files and sockets
//! along. What is absent: anything that waits, and anything that reaches out of
//! this call. Streams and pollables have no state, so their handles are constants
//! and dropping one does nothing; how many a guest may hold is the store's limit.

use wasmtime::component::Resource;
use wasmtime::{Error, Result};
use windlass_core::code::{Code, Refusal};

use crate::bindings::floor::wasi::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
    terminal_stdin, terminal_stdout,
};
use crate::bindings::floor::wasi::clocks::{monotonic_clock, wall_clock};
use crate::bindings::floor::wasi::io::error as io_error;
use crate::bindings::floor::wasi::io::poll::{self, Pollable};
use crate::bindings::floor::wasi::io::streams::{self, InputStream, OutputStream, StreamError};
use crate::bindings::floor::wasi::random::{insecure, insecure_seed, random};
use crate::call::Inside;
use crate::output::Stream;

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/// Every pollable: there is nothing to wait for.
const READY: u32 = 3;

/// What a stream says it can take in one write; a longer one is taken too.
const PERMIT_BYTES: u64 = 64 << 10;

/// Random bytes in one answer.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// Where the monotonic clock stands, in nanoseconds: past zero, so that a program
/// may subtract a little.
const STANDING_NS: u64 = 1_000_000_000;

type Written = Result<std::result::Result<(), StreamError>>;
type Count = Result<std::result::Result<u64, StreamError>>;

impl Inside {
    fn put(&mut self, to: &Resource<OutputStream>, bytes: &[u8]) -> Written {
        let stream = if to.rep() == STDERR { Stream::Err } else { Stream::Out };
        self.output.write(stream, bytes);
        Ok(Ok(()))
    }

    fn random(&mut self, len: u64) -> Result<Vec<u8>> {
        match usize::try_from(len) {
            Ok(bytes) if len <= RANDOM_BYTES_MAX => Ok(self.entropy.bytes(bytes)),
            _ => Err(Error::new(Refusal::new(
                Code::Trap,
                format!("asked for {len} random bytes at once, at most {RANDOM_BYTES_MAX}"),
            ))),
        }
    }
}

fn exited(how: &str) -> Error {
    Error::new(Refusal::new(
        Code::Trap,
        format!("the plugin ended itself ({how}): a reconciler returns a decision or a fault"),
    ))
}

impl environment::Host for Inside {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

impl exit::Host for Inside {
    fn exit(&mut self, status: std::result::Result<(), ()>) -> Result<()> {
        Err(exited(if status.is_ok() { "exit 0" } else { "exit 1" }))
    }

    fn exit_with_code(&mut self, status_code: u8) -> Result<()> {
        Err(exited(&format!("exit {status_code}")))
    }
}

impl stdin::Host for Inside {
    fn get_stdin(&mut self) -> Result<Resource<InputStream>> {
        Ok(Resource::new_own(STDIN))
    }
}

impl stdout::Host for Inside {
    fn get_stdout(&mut self) -> Result<Resource<OutputStream>> {
        Ok(Resource::new_own(STDOUT))
    }
}

impl stderr::Host for Inside {
    fn get_stderr(&mut self) -> Result<Resource<OutputStream>> {
        Ok(Resource::new_own(STDERR))
    }
}

impl terminal_input::Host for Inside {}
impl terminal_input::HostTerminalInput for Inside {
    fn drop(&mut self, _: Resource<terminal_input::TerminalInput>) -> Result<()> {
        Ok(())
    }
}

impl terminal_output::Host for Inside {}
impl terminal_output::HostTerminalOutput for Inside {
    fn drop(&mut self, _: Resource<terminal_output::TerminalOutput>) -> Result<()> {
        Ok(())
    }
}

impl terminal_stdin::Host for Inside {
    fn get_terminal_stdin(&mut self) -> Result<Option<Resource<terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl terminal_stdout::Host for Inside {
    fn get_terminal_stdout(&mut self) -> Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl terminal_stderr::Host for Inside {
    fn get_terminal_stderr(&mut self) -> Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl io_error::Host for Inside {}
impl io_error::HostError for Inside {
    fn to_debug_string(&mut self, _: Resource<io_error::Error>) -> Result<String> {
        Ok("closed".to_owned())
    }

    fn drop(&mut self, _: Resource<io_error::Error>) -> Result<()> {
        Ok(())
    }
}

impl poll::Host for Inside {
    fn poll(&mut self, all: Vec<Resource<Pollable>>) -> Result<Vec<u32>> {
        let count = u32::try_from(all.len()).unwrap_or_default();
        if count == 0 {
            return Err(Error::new(Refusal::new(Code::Trap, "poll of nothing would wait forever")));
        }
        Ok((0..count).collect())
    }
}

impl poll::HostPollable for Inside {
    fn ready(&mut self, _: Resource<Pollable>) -> Result<bool> {
        Ok(true)
    }

    fn block(&mut self, _: Resource<Pollable>) -> Result<()> {
        Ok(())
    }

    fn drop(&mut self, _: Resource<Pollable>) -> Result<()> {
        Ok(())
    }
}

impl streams::Host for Inside {}

/// Standard input is at its end.
impl streams::HostInputStream for Inside {
    fn read(
        &mut self,
        _: Resource<InputStream>,
        _len: u64,
    ) -> Result<std::result::Result<Vec<u8>, StreamError>> {
        Ok(Err(StreamError::Closed))
    }

    fn blocking_read(
        &mut self,
        _: Resource<InputStream>,
        _len: u64,
    ) -> Result<std::result::Result<Vec<u8>, StreamError>> {
        Ok(Err(StreamError::Closed))
    }

    fn skip(&mut self, _: Resource<InputStream>, _len: u64) -> Count {
        Ok(Err(StreamError::Closed))
    }

    fn blocking_skip(&mut self, _: Resource<InputStream>, _len: u64) -> Count {
        Ok(Err(StreamError::Closed))
    }

    fn subscribe(&mut self, _: Resource<InputStream>) -> Result<Resource<Pollable>> {
        Ok(Resource::new_own(READY))
    }

    fn drop(&mut self, _: Resource<InputStream>) -> Result<()> {
        Ok(())
    }
}

/// Standard output and error become log lines.
impl streams::HostOutputStream for Inside {
    fn check_write(&mut self, _: Resource<OutputStream>) -> Count {
        Ok(Ok(PERMIT_BYTES))
    }

    fn write(&mut self, to: Resource<OutputStream>, contents: Vec<u8>) -> Written {
        self.put(&to, &contents)
    }

    fn blocking_write_and_flush(&mut self, to: Resource<OutputStream>, contents: Vec<u8>) -> Written {
        self.put(&to, &contents)
    }

    fn flush(&mut self, _: Resource<OutputStream>) -> Written {
        Ok(Ok(()))
    }

    fn blocking_flush(&mut self, _: Resource<OutputStream>) -> Written {
        Ok(Ok(()))
    }

    fn subscribe(&mut self, _: Resource<OutputStream>) -> Result<Resource<Pollable>> {
        Ok(Resource::new_own(READY))
    }

    /// Zeros are no text: they are taken and forgotten.
    fn write_zeroes(&mut self, _: Resource<OutputStream>, _len: u64) -> Written {
        Ok(Ok(()))
    }

    fn blocking_write_zeroes_and_flush(&mut self, _: Resource<OutputStream>, _len: u64) -> Written {
        Ok(Ok(()))
    }

    fn splice(&mut self, _: Resource<OutputStream>, _: Resource<InputStream>, _len: u64) -> Count {
        Ok(Err(StreamError::Closed))
    }

    fn blocking_splice(&mut self, _: Resource<OutputStream>, _: Resource<InputStream>, _len: u64) -> Count {
        Ok(Err(StreamError::Closed))
    }

    fn drop(&mut self, _: Resource<OutputStream>) -> Result<()> {
        Ok(())
    }
}

impl wall_clock::Host for Inside {
    fn now(&mut self) -> Result<wall_clock::Datetime> {
        let now = self.clock.read();
        Ok(wall_clock::Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
    }

    fn resolution(&mut self) -> Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: 1 })
    }
}

/// Stands still. A sleep returns at once: waiting is `requeue-after-ms`.
impl monotonic_clock::Host for Inside {
    fn now(&mut self) -> Result<u64> {
        Ok(STANDING_NS)
    }

    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, _when: u64) -> Result<Resource<Pollable>> {
        Ok(Resource::new_own(READY))
    }

    fn subscribe_duration(&mut self, _when: u64) -> Result<Resource<Pollable>> {
        Ok(Resource::new_own(READY))
    }
}

impl random::Host for Inside {
    fn get_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.random(len)
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        Ok(self.entropy.next())
    }
}

impl insecure::Host for Inside {
    fn get_insecure_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.random(len)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        Ok(self.entropy.next())
    }
}

impl insecure_seed::Host for Inside {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        Ok((self.entropy.next(), self.entropy.next()))
    }
}
