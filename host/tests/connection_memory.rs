//! What a watch's connection holds while it is silent, after it has carried a list: there is one for each kind.
//!
//! A test binary of its own, because it counts every allocation of its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use kube::client::Body;

#[path = "../src/connect.rs"]
mod connect;

/// Bytes that are allocated and not freed.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[allow(unsafe_code, reason = "an allocator cannot be counted without being one")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Watches at once.
const WATCHES: usize = 20;
/// Chunks of a list, and bytes of each: half a MiB.
const CHUNKS: usize = 16;
const CHUNK_BYTES: usize = 32 << 10;
/// Bytes that each may hold: without TLS, but with both tasks, this client's and the server's thread.
const MOST: usize = 40 << 10;

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_silent_watch_holds_little_of_what_its_list_took() {
    let address = serve();
    let config = kube::Config::new(format!("http://{address}").parse().expect("an address"));
    let client = connect::client(config).expect("a client");
    let before = HELD.load(Ordering::Relaxed);
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let list = ask(&client, "/list").await.collect().await.expect("a whole list").to_bytes();
        assert_eq!(list.len(), CHUNKS * CHUNK_BYTES);
        drop(list);
        // On the same connection: it is the only one that nobody uses.
        let mut watch = ask(&client, "/watch").await;
        let event = watch.frame().await.expect("an event").expect("whole");
        assert_eq!(event.data_ref().map(|data| &data[..]), Some(&b"{}\n"[..]));
        drop(event);
        watches.push(watch);
    }
    let each = (HELD.load(Ordering::Relaxed) - before) / WATCHES;
    println!("{each} bytes a watch");
    assert!(each <= MOST, "{each} bytes a watch, at most {MOST}");
}

async fn ask(client: &kube::Client, path: &str) -> Body {
    let request = http::Request::get(path).body(Body::empty()).expect("a request");
    client.send(request).await.expect("an answer").into_body()
}

/// An API server of one list and one event for each connection, which then says nothing more.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut request = [0; 4096];
    while stream.read(&mut request).is_ok_and(|read| read > 0) {
        let _ = stream.write_all(HEAD);
        if request.starts_with(b"GET /watch") {
            let _ = stream.write_all(b"3\r\n{}\n\r\n");
            continue;
        }
        for _ in 0..CHUNKS {
            let _ = stream.write_all(format!("{CHUNK_BYTES:x}\r\n").as_bytes());
            let _ = stream.write_all(&[b' '; CHUNK_BYTES]);
            let _ = stream.write_all(b"\r\n");
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    }
}
