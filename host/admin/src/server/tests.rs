use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::*;
use crate::certificates::tests::{client, trusting};

struct Two;

impl Routes for Two {
    fn get(&self, path: &str) -> Option<Answer> {
        match path {
            "/readyz" => Some(Answer::unavailable("[-]plugins: one is loading\n")),
            "/debug/queue" => Some(Answer::json(&vec![1, 2])),
            "/livez" => Some(Answer::text("ok\n")),
            _ => None,
        }
    }
}

/// Runs `asks` against a server with these limits, and ends it afterwards.
async fn served<T>(limits: Limits, entry: Entry, asks: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    let mut bound = Bound::bind("127.0.0.1:0".parse().expect("valid")).await.expect("bound");
    bound.limits = limits;
    let address = bound.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = bound.serve(Arc::new(Two), entry, async { drop(stopped.await) });
    let (answer, ()) = tokio::join!(
        async {
            let answer = asks(address).await;
            drop(stop);
            answer
        },
        serve
    );
    answer
}

async fn say(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    // An end by reset, with what came before it, is an answer too.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).expect("text")
}

async fn ask(request: &str) -> String {
    served(LIMITS, Entry::open(), async |address| say(address, request.as_bytes()).await).await
}

#[tokio::test]
async fn each_path_answers_and_others_are_not_found() {
    let get = async |path: &str| ask(&format!("GET {path} HTTP/1.0\r\n\r\n")).await;
    let ready = get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.0 503") && ready.contains("one is loading"), "{ready}");
    let queue = get("/debug/queue?x=y").await;
    assert!(queue.contains("application/json") && queue.ends_with("[1,2]"), "{queue}");
    assert!(get("/nothing").await.starts_with("HTTP/1.0 404"));
}

#[tokio::test]
async fn nothing_can_be_changed_here() {
    let answer = ask("POST /readyz HTTP/1.0\r\ncontent-length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 405"), "{answer}");
}

#[tokio::test]
async fn nonsense_is_refused_and_the_next_one_served() {
    assert!(ask("\0\0\0\r\n\r\n").await.contains("400"));
}

#[tokio::test]
async fn a_body_is_refused_in_either_form_and_not_waited_for() {
    for head in ["content-length: 5000000", "transfer-encoding: chunked"] {
        let answer = ask(&format!("GET /livez HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn a_head_has_room_for_a_long_token_and_no_more() {
    let with = async |bytes: usize| {
        let token = "x".repeat(bytes);
        ask(&format!("GET /livez HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")).await
    };
    assert!(with(8 << 10).await.starts_with("HTTP/1.1 200"));
    let long = with(17 << 10).await;
    assert!(long.starts_with("HTTP/1.1 431"), "{long}");
    let many = "a: b\r\n".repeat(200);
    let many = ask(&format!("GET /livez HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
}

#[tokio::test]
async fn a_connection_is_asked_once() {
    let two = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    let answer = ask(&two).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
}

/// As short as a loaded machine allows.
const SHORT: Duration = Duration::from_millis(300);
/// What one waits for in vain.
const LONG: Duration = Duration::from_secs(600);

/// How long a connection lives on which only this much is sent.
async fn lives(limits: Limits, entry: Entry, begin: &[u8]) -> Duration {
    served(limits, entry, async |address| {
        let began = Instant::now();
        let ended = timeout(SHORT * 20, say(address, begin)).await;
        ended.expect("the connection is ended at all");
        began.elapsed()
    })
    .await
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_the_connection_in_time() {
    for begin in [&b""[..], b"GET /livez HTTP/1.1\r\nhost: x\r\n"] {
        let took = lives(Limits { head: SHORT, whole: LONG, ..LIMITS }, Entry::open(), begin).await;
        assert!(took >= SHORT && took < SHORT * 10, "{took:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_ends_the_connection_in_time() {
    let limits = Limits { handshake: SHORT, head: LONG, whole: LONG, ..LIMITS };
    // A record that says that it has more.
    for begin in [&b""[..], &[0x16, 3, 1, 2, 0, 1, 0]] {
        let (certificates, _) = trusting().await;
        let entry = Entry { certificates: Some(certificates), guard: None };
        let took = lives(limits, entry, begin).await;
        assert!(took >= SHORT && took < SHORT * 10, "{took:?}");
    }
}

#[tokio::test]
async fn no_connection_lives_longer_than_its_whole_time() {
    let limits = Limits { head: LONG, handshake: LONG, whole: SHORT, ..LIMITS };
    let took = lives(limits, Entry::open(), b"GET /livez").await;
    assert!(took >= SHORT && took < SHORT * 10, "{took:?}");
}

/// How long a question of a kubelet may take: `timeoutSeconds` of a probe is 1 by default.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn two_hundred_slow_connections_keep_no_probe_out() {
    let limits = Limits { head: LONG, whole: LONG, ..LIMITS };
    served(limits, Entry::open(), async |address| {
        let mut slow = Vec::new();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            // Who has been made room for already is told by a reset.
            drop(stream.write_all(b"GET /livez HTTP/1.1\r\nx").await);
            slow.push(stream);
        }
        for _ in 0..20 {
            let began = Instant::now();
            let answer = say(address, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let took = began.elapsed();
            assert!(answer.starts_with("HTTP/1.1 200") && took < PROBE_WITHIN, "{took:?} {answer}");
        }
        // The oldest had to go, the youngest are still heard.
        let mut closed = 0;
        for stream in &mut slow {
            let mut byte = [0];
            let read = timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
            closed += usize::from(read.is_ok());
        }
        assert!((200 - 64..200).contains(&closed), "{closed} of 200 are closed");
    })
    .await;
}

#[tokio::test]
async fn two_hundred_unfinished_handshakes_keep_no_scrape_out() {
    let (certificates, roots) = trusting().await;
    let entry = Entry { certificates: Some(certificates), guard: None };
    served(Limits { handshake: LONG, whole: LONG, ..LIMITS }, entry, async |address| {
        let mut slow = Vec::new();
        for _ in 0..200 {
            slow.push(TcpStream::connect(address).await.expect("connected"));
        }
        let began = Instant::now();
        let answer = client(&roots).get(address, "/livez", "").await.expect("an answer");
        let took = began.elapsed();
        assert!(answer.starts_with("HTTP/1.1 200") && took < Duration::from_secs(2), "{took:?} {answer}");
    })
    .await;
}

#[tokio::test]
async fn who_has_asked_is_answered_whoever_comes_meanwhile() {
    struct Large;
    impl Routes for Large {
        fn get(&self, _: &str) -> Option<Answer> {
            // More than the sockets take: the answer lasts as long as the other side reads.
            Some(Answer::text("x".repeat(64 << 20)))
        }
    }
    let mut bound = Bound::bind("127.0.0.1:0".parse().expect("valid")).await.expect("bound");
    bound.limits = Limits { connections: 1, ..LIMITS };
    let address = bound.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = bound.serve(Arc::new(Large), Entry::open(), async { drop(stopped.await) });
    let asks = async {
        let mut first = TcpStream::connect(address).await.expect("connected");
        first.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut head = [0; 12];
        first.read_exact(&mut head).await.expect("the answer has begun");
        let mut second = TcpStream::connect(address).await.expect("connected");
        second.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut rest = Vec::new();
        first.read_to_end(&mut rest).await.expect("all of the answer");
        assert!(rest.len() > 64 << 20);
        second.read_exact(&mut head).await.expect("and then the next one's");
        drop(stop);
    };
    tokio::join!(asks, serve);
}
