//! `/healthz` and `/readyz`, as small as they can be.

use std::sync::atomic::Ordering;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Answers every request on `address` with 200, or 503 before the process is ready.
pub(crate) async fn serve(address: String) -> Result<()> {
    let listener = TcpListener::bind(&address).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let status =
                if crate::READY.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
            let answer = format!("HTTP/1.0 {status}\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}
