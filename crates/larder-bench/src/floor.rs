//! What tokio alone spends on one request and its reply: the floor under `get-miss`, with the same request.
//!
//! A task has the socket. The caller leaves its bytes under a mutex, wakes the task, and is woken for the reply, within
//! a timeout. There is one caller: no queue, no parsing, no errors.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::instructions;
use crate::lane::Outcome;
use crate::rounds::Flavour;

/// The argument of the hidden subcommand `spin` that sends these requests.
pub(crate) const SPIN: &str = "floor";
const TIMES: u64 = 400;
const REQUEST: &[u8] = b"*2\r\n$3\r\nGET\r\n$15\r\nbench/item:0000\r\n";
/// Without a greeting the server speaks RESP2.
const NIL: &[u8] = b"$-1\r\n";
const WAIT: Duration = Duration::from_secs(1);

/// Counts the instructions of one request.
pub(crate) fn count(url: &str) -> Outcome<String> {
    let floor = instructions::per_turn(&[SPIN, url], TIMES)?;
    Ok(format!("\nOf a `get-miss`, tokio alone takes {floor} instructions.\n"))
}

/// What `spin floor` runs under valgrind.
pub(crate) fn spin(url: &str, times: u64) -> Outcome<()> {
    let address = url.trim_start_matches("redis://").trim_end_matches('/');
    Flavour::CurrentThread.build()?.block_on(async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        tokio::spawn(drive(stream, shared.clone()));
        for _ in 0..times {
            timeout(WAIT, ask(&shared)).await??;
        }
        Ok(())
    })
}

#[derive(Default)]
struct Shared {
    request: Vec<u8>,
    reply: Vec<u8>,
    task: Option<Waker>,
    caller: Option<Waker>,
}

async fn ask(shared: &Mutex<Shared>) -> Outcome<()> {
    let mut sent = false;
    poll_fn(|cx| {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.reply.len() == NIL.len() {
            let expected = shared.reply == NIL;
            shared.reply.clear();
            return Poll::Ready(if expected {
                Ok(())
            } else {
                Err("a key exists that was not stored".into())
            });
        }
        shared.caller = Some(cx.waker().clone());
        if !std::mem::replace(&mut sent, true) {
            shared.request.extend_from_slice(REQUEST);
            let task = shared.task.take();
            drop(shared);
            task.into_iter().for_each(Waker::wake);
        }
        Poll::Pending
    })
    .await
}

/// Writes what the caller leaves and wakes it for what arrives, until the connection ends.
async fn drive(mut stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    let mut buffer = [0; 4096];
    poll_fn(|cx| {
        let mut stream = Pin::new(&mut stream);
        let mut request = Vec::new();
        {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.task = Some(cx.waker().clone());
            std::mem::swap(&mut request, &mut shared.request);
        }
        if !request.is_empty() && stream.as_mut().poll_write(cx, &request).is_pending() {
            return Poll::Ready(());
        }
        loop {
            let mut read = ReadBuf::new(&mut buffer);
            if ready!(stream.as_mut().poll_read(cx, &mut read)).is_err() || read.filled().is_empty() {
                return Poll::Ready(());
            }
            let caller = {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.reply.extend_from_slice(read.filled());
                shared.caller.take()
            };
            caller.into_iter().for_each(Waker::wake);
        }
    })
    .await;
}
