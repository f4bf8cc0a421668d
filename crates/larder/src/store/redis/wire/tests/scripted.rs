//! A connection whose other end is played by the test.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{sleep, timeout};

use super::super::connection::{Connection, Event};
use super::super::entries::{MOST_BYTES, MOST_REQUESTS};
use super::super::error::{RequestFailure, WireError};
use super::super::reader::Reader;
use super::super::reply::Reply;
use super::super::request::Request;

const LIMIT: Duration = Duration::from_secs(20);

/// What happened on a connection, in words.
type Log = Arc<Mutex<Vec<String>>>;

/// A connection, its other end, between which so many bytes fit, and what is reported.
fn connected(room: usize) -> (Connection, DuplexStream, Log) {
    let (ours, theirs) = duplex(room);
    let log = Log::default();
    let report = log.clone();
    let connection = Connection::start(ours, move |event: Event<'_>| {
        report.lock().unwrap().push(match event {
            Event::Push(push) => format!("push {}", push[0].as_str().unwrap()),
            Event::Ended { stranded: false } => "ended".to_owned(),
            Event::Ended { stranded: true } => "stranded".to_owned(),
        });
    });
    (connection, theirs, log)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn get(key: &str) -> Request {
    Request::new("GET").arg(key)
}

fn encoded(key: &str) -> String {
    format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len())
}

async fn expect(stream: &mut DuplexStream, expected: &str) {
    let mut found = vec![0; expected.len()];
    timeout(LIMIT, stream.read_exact(&mut found)).await.expect("never written").unwrap();
    assert_eq!(String::from_utf8_lossy(&found), expected);
}

/// All bytes that the connection writes until it is closed.
async fn rest(stream: &mut DuplexStream) -> String {
    let mut found = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut found)).await.expect("never closed").unwrap();
    String::from_utf8_lossy(&found).into_owned()
}

fn text(reply: &str) -> Reply {
    Reply::Simple(Bytes::copy_from_slice(reply.as_bytes()))
}

#[tokio::test]
async fn replies_go_to_their_requests_in_order_and_pushes_before_them() {
    let (connection, mut peer, log) = connected(1024);
    let (a, b) = (get("a"), get("b"));
    let both = [get("c"), get("d")];
    let play = async {
        expect(&mut peer, &["a", "b", "c", "d"].map(encoded).concat()).await;
        peer.write_all(b"+1\r\n>1\r\n+news\r\n-ERR two\r\n$1\r\n3\r\n-ERR four\r\n").await.unwrap();
    };
    let (a, b, both, ()) =
        tokio::join!(connection.send(&a), connection.send(&b), connection.send_all(&both), play);
    assert_eq!(a.unwrap(), text("1"));
    assert!(matches!(b, Err(RequestFailure::Refused(error)) if error.detail() == "two"));
    let both = both.unwrap();
    assert_eq!(both[0], Reply::Bulk("3".into()));
    assert!(matches!(&both[1], Reply::Error(error) if error.detail() == "four"));
    assert_eq!(*log.lock().unwrap(), ["push news"]);
    assert_eq!(connection.queue().counts(), (0, 0, 0));
}

#[tokio::test]
async fn the_unsent_request_of_a_caller_that_went_away_is_dropped() {
    let (connection, mut peer, _) = connected(16);
    let long = "x".repeat(100);
    let (first, gone, third) = (get(&long), get("gone"), get("third"));
    let mut sent = Box::pin(connection.send(&first));
    assert!(poll(&mut sent).is_pending());
    // The writer has taken the first request and cannot finish writing it.
    let mut start = [0; 4];
    peer.read_exact(&mut start).await.unwrap();
    {
        let mut gone = Box::pin(connection.send(&gone));
        assert!(poll(&mut gone).is_pending());
    }
    let play = async {
        expect(&mut peer, &(encoded(&long)[4..].to_owned() + &encoded("third"))).await;
        peer.write_all(b"+1\r\n+3\r\n").await.unwrap();
    };
    let (first, third, ()) = tokio::join!(sent, connection.send(&third), play);
    assert_eq!((first.unwrap(), third.unwrap()), (text("1"), text("3")));
    assert_eq!(connection.queue().counts(), (0, 0, 0));
}

#[tokio::test]
async fn the_reply_to_a_caller_that_went_away_is_skipped() {
    let (connection, mut peer, _) = connected(1024);
    {
        let request = [get("gone"), get("gone too")];
        let mut gone = Box::pin(connection.send_all(&request));
        assert!(poll(&mut gone).is_pending());
        expect(&mut peer, &["gone", "gone too"].map(encoded).concat()).await;
        peer.write_all(b"+gone\r\n").await.unwrap();
    }
    let request = get("b");
    let play = async {
        expect(&mut peer, &encoded("b")).await;
        peer.write_all(b"+gone too\r\n+b\r\n").await.unwrap();
    };
    let (b, ()) = tokio::join!(connection.send(&request), play);
    assert_eq!(b.unwrap(), text("b"));
    assert_eq!(connection.queue().counts(), (0, 0, 0));
}

#[tokio::test]
async fn callers_wait_while_too_many_bytes_wait_to_be_written() {
    let (connection, mut peer, _) = connected(64 * 1024);
    let value = Bytes::from(vec![b'v'; 200 * 1024]);
    let request = Request::new("SET").arg("k").value(&value);
    let count = 40;
    let mut all: Vec<_> = (0..count).map(|_| Box::pin(connection.send(&request))).collect();
    assert!(all.iter_mut().all(|one| poll(one).is_pending()));
    let (_, _, blocked) = connection.queue().counts();
    let queued = (count - blocked) * value.len();
    assert!(queued > MOST_BYTES / 2 && queued < MOST_BYTES + 2 * value.len(), "{blocked} are blocked");
    // The first blocked caller is dropped: the next one is now first.
    drop(all.remove(count - blocked));
    let play = async {
        let mut found = Vec::new();
        let whole = (count - 1) * (value.len() + 31);
        while found.len() < whole {
            peer.read_buf(&mut found).await.unwrap();
        }
        assert_eq!(found.iter().filter(|byte| **byte == b'v').count(), (count - 1) * value.len());
        peer.write_all("+OK\r\n".repeat(count - 1).as_bytes()).await.unwrap();
        peer
    };
    let (answers, _peer) = timeout(LIMIT, async { tokio::join!(futures_util::future::join_all(all), play) })
        .await
        .expect("all are written");
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(connection.queue().counts(), (0, 0, 0));
}

#[tokio::test]
async fn callers_wait_while_too_many_requests_are_unanswered_and_heartbeats_do_not() {
    let (connection, mut peer, _) = connected(1 << 22);
    let request = get("k");
    let mut all: Vec<_> = (0..MOST_REQUESTS + 10).map(|_| Box::pin(connection.send(&request))).collect();
    assert!(all.iter_mut().all(|one| poll(one).is_pending()));
    assert_eq!(connection.queue().counts(), (MOST_REQUESTS, MOST_REQUESTS, 10));
    let beat = [get("beat")];
    let mut beat = Box::pin(connection.send_urgently(&beat));
    assert!(poll(&mut beat).is_pending());
    assert_eq!(connection.queue().counts().0, MOST_REQUESTS + 1);
    expect_bytes(&mut peer, MOST_REQUESTS * encoded("k").len() + encoded("beat").len()).await;
    let first = "+OK\r\n".repeat(MOST_REQUESTS + 1);
    let play = async {
        peer.write_all(first.as_bytes()).await.unwrap();
        expect_bytes(&mut peer, 10 * encoded("k").len()).await;
        peer.write_all("+OK\r\n".repeat(10).as_bytes()).await.unwrap();
    };
    let together = async { tokio::join!(futures_util::future::join_all(all), beat, play) };
    let (answers, beat, ()) = timeout(LIMIT, together).await.expect("all are answered");
    assert!(answers.iter().all(Result::is_ok) && beat.is_ok());
}

async fn expect_bytes(stream: &mut (impl tokio::io::AsyncRead + Unpin), count: usize) {
    let mut found = vec![0; count];
    timeout(LIMIT, stream.read_exact(&mut found)).await.expect("never written").unwrap();
}

#[tokio::test]
async fn what_is_not_written_when_a_connection_is_given_up_never_is() {
    let (connection, mut peer, log) = connected(16);
    let long = "x".repeat(100);
    let (answered, begun, unsent) = (get("a"), get(&long), Request::new("SET").arg("late").arg("v"));
    let mut answered = Box::pin(connection.send(&answered));
    assert!(poll(&mut answered).is_pending());
    expect(&mut peer, &encoded("a")).await;
    let mut begun = Box::pin(connection.send(&begun));
    assert!(poll(&mut begun).is_pending());
    let mut start = [0; 4];
    peer.read_exact(&mut start).await.unwrap();
    let mut unsent = Box::pin(connection.send(&unsent));
    assert!(poll(&mut unsent).is_pending());
    connection.give_up();
    assert!(matches!(unsent.await, Err(RequestFailure::NotSent(WireError::GivenUp))));
    // A part of it was written, so the server may have carried it out or not.
    assert!(matches!(begun.await, Err(RequestFailure::Lost(WireError::GivenUp))));
    let late = get("late");
    assert!(matches!(connection.send(&late).await, Err(RequestFailure::NotSent(_))));
    // The request that was written still gets its reply. Then the connection is closed.
    peer.write_all(b"+a\r\n").await.unwrap();
    assert_eq!(answered.await.unwrap(), text("a"));
    assert!(!rest(&mut peer).await.contains("late"));
    until("the end is reported", || log.lock().unwrap().as_slice() == ["ended"]).await;
}

#[tokio::test]
async fn a_given_up_connection_closes_when_its_last_caller_goes_away() {
    let (connection, mut peer, _) = connected(1024);
    let request = get("a");
    let mut sent = Box::pin(connection.send(&request));
    assert!(poll(&mut sent).is_pending());
    expect(&mut peer, &encoded("a")).await;
    connection.give_up();
    // Let the connection's task run: it sees one caller that waits for a reply.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    drop(sent);
    assert_eq!(rest(&mut peer).await, "");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_and_fails_every_request_once() {
    for (said, why) in [
        ("?what\r\n", "begins with the byte 63"),
        ("$999999999\r\n", "more than 536870912 bytes"),
        (&*"*1\r\n".repeat(40), "deep"),
        ("$3\r\nabcdef", "longer than announced"),
        ("+1\r\n+2\r\n+3\r\n", "a reply to no request"),
        (":x\r\n", "integer"),
    ] {
        let (connection, mut peer, log) = connected(1024);
        let requests = [get("a"), get("b")];
        let mut first = Box::pin(connection.send(&requests[0]));
        let mut second = Box::pin(connection.send(&requests[1]));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        expect(&mut peer, &["a", "b"].map(encoded).concat()).await;
        peer.write_all(said.as_bytes()).await.unwrap();
        until("the end is reported", || log.lock().unwrap().as_slice() == ["ended"]).await;
        if said.starts_with("+1") {
            // The replies before the surplus one are valid.
            assert_eq!((first.await.unwrap(), second.await.unwrap()), (text("1"), text("2")));
        } else {
            for failed in [first.await, second.await] {
                let Err(RequestFailure::Lost(error)) = failed else { panic!("{said:.20}: {failed:?}") };
                assert!(error.to_string().contains(why), "{said:.20}: {error}");
            }
        }
        let late = connection.send(&requests[0]).await;
        assert!(
            matches!(&late, Err(RequestFailure::NotSent(error)) if error.to_string().contains(why)),
            "{late:?}"
        );
        assert_eq!(rest(&mut peer).await, "");
    }
}

#[tokio::test]
async fn a_reply_before_its_request_was_written_is_no_reply_to_it() {
    let (connection, mut peer, _) = connected(16);
    let request = get(&"x".repeat(100));
    let mut sent = Box::pin(connection.send(&request));
    assert!(poll(&mut sent).is_pending());
    let mut start = [0; 4];
    peer.read_exact(&mut start).await.unwrap();
    peer.write_all(b"+early\r\n").await.unwrap();
    let failed = timeout(LIMIT, sent).await.unwrap();
    assert!(matches!(&failed, Err(RequestFailure::Lost(WireError::Malformed(_)))), "{failed:?}");

    // The message of a full server, which then closes the connection, is part of the error.
    let (connection, mut peer, log) = connected(1024);
    peer.write_all(b"-ERR max number of clients reached\r\n").await.unwrap();
    until("the end is reported", || !log.lock().unwrap().is_empty()).await;
    let late = connection.send(&request).await.unwrap_err();
    assert!(late.is_unsent() && late.to_string().contains("max number of clients"), "{late}");
}

#[tokio::test]
async fn a_peer_that_closes_loses_what_was_written_and_nothing_else() {
    let (connection, mut peer, log) = connected(16);
    let (written, begun, unsent) = (get("a"), get(&"x".repeat(100)), get("b"));
    let mut written = Box::pin(connection.send(&written));
    assert!(poll(&mut written).is_pending());
    expect(&mut peer, &encoded("a")).await;
    let (mut begun, mut unsent) = (Box::pin(connection.send(&begun)), Box::pin(connection.send(&unsent)));
    assert!(poll(&mut begun).is_pending());
    let mut start = [0; 4];
    peer.read_exact(&mut start).await.unwrap();
    assert!(poll(&mut unsent).is_pending());
    drop(peer);
    assert!(matches!(written.await, Err(RequestFailure::Lost(_))));
    assert!(matches!(begun.await, Err(RequestFailure::Lost(_))));
    assert!(matches!(unsent.await, Err(RequestFailure::NotSent(_))));
    assert_eq!(*log.lock().unwrap(), ["ended"]);
}

#[tokio::test]
async fn a_connection_without_handles_is_closed() {
    let (connection, mut peer, log) = connected(1024);
    drop(connection);
    assert_eq!(rest(&mut peer).await, "");
    until("the end is reported", || log.lock().unwrap().as_slice() == ["ended"]).await;
}

#[test]
fn a_runtime_that_ends_fails_the_requests_on_its_connections() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (connection, mut peer, log) = runtime.block_on(async { connected(1024) });
    let request = get("a");
    let mut sent = Box::pin(connection.send(&request));
    runtime.block_on(async {
        assert!(poll(&mut sent).is_pending());
        expect(&mut peer, &encoded("a")).await;
    });
    drop(runtime);
    assert_eq!(*log.lock().unwrap(), ["stranded"]);
    assert!(matches!(poll(&mut sent), Poll::Ready(Err(RequestFailure::Lost(WireError::Stranded)))));
    let request = get("b");
    let late = poll(&mut Box::pin(connection.send(&request)));
    assert!(matches!(late, Poll::Ready(Err(RequestFailure::NotSent(WireError::Stranded)))));
    drop(peer);
}

#[tokio::test]
async fn reading_goes_on_while_a_write_is_stuck() {
    let (connection, mut peer, log) = connected(64);
    let value = Bytes::from(vec![b'v'; 100_000]);
    let request = Request::new("SET").arg("k").value(&value);
    let mut sent = Box::pin(connection.send(&request));
    assert!(poll(&mut sent).is_pending());
    for _ in 0..100 {
        peer.write_all(b">1\r\n+news\r\n").await.unwrap();
    }
    until("all pushes are read", || log.lock().unwrap().len() == 100).await;
    let play = async {
        let mut found = vec![0; value.len() + 31];
        peer.read_exact(&mut found).await.unwrap();
        peer.write_all(b"+OK\r\n").await.unwrap();
    };
    let (sent, ()) = tokio::join!(sent, play);
    assert_eq!(sent.unwrap(), text("OK"));
}

#[tokio::test]
async fn the_read_buffer_grows_with_large_replies_and_shrinks_again() {
    let (mut ours, mut theirs) = duplex(4 << 20);
    let mut reader = Reader::default();
    let fill = vec![b'v'; 3 << 20];
    theirs.write_all(format!("${}\r\n", fill.len()).as_bytes()).await.unwrap();
    theirs.write_all(&fill).await.unwrap();
    theirs.write_all(b"\r\n").await.unwrap();
    let mut count = 0;
    while count < 1 {
        std::future::poll_fn(|cx| reader.poll_read(cx, &mut ours)).await.unwrap();
        reader.frames(|_| count += 1).unwrap();
    }
    assert!(reader.room().0 > 256 << 10 && reader.room().1 < 1 << 20, "{:?}", reader.room());
    for _ in 0..1000 {
        theirs.write_all(b"+OK\r\n").await.unwrap();
        std::future::poll_fn(|cx| reader.poll_read(cx, &mut ours)).await.unwrap();
        reader.frames(|_| count += 1).unwrap();
    }
    assert_eq!(count, 1001);
    assert!(reader.room().0 == 32 << 10 && reader.room().1 <= 512 << 10, "{:?}", reader.room());
}

#[tokio::test]
async fn a_server_may_answer_the_first_requests_of_a_batch_before_it_has_the_last() {
    let (connection, mut peer, _) = connected(64);
    let keys: Vec<String> = (0..20).map(|number| format!("{number:0>50}")).collect();
    let requests: Vec<Request> = keys.iter().map(|key| get(key)).collect();
    let play = async {
        for (number, key) in keys.iter().enumerate() {
            expect(&mut peer, &encoded(key)).await;
            peer.write_all(format!("+{number}\r\n").as_bytes()).await.unwrap();
        }
    };
    let (replies, ()) = timeout(LIMIT, async { tokio::join!(connection.send_all(&requests), play) })
        .await
        .expect("no replies");
    let expected: Vec<Reply> = (0..20).map(|number| text(&number.to_string())).collect();
    assert_eq!(replies.unwrap(), expected);
}

#[tokio::test]
async fn a_server_that_does_not_answer_an_auth_shifts_no_replies() {
    let (connection, mut peer, log) = connected(1024);
    let (auth, later) = (Request::new("AUTH").arg("secret"), get("a"));
    let play = async {
        let requests = "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*2\r\n$4\r\nPING\r\n$6\r\nlarder\r\n";
        expect(&mut peer, &format!("{requests}{}", encoded("a"))).await;
        peer.write_all(b"$6\r\nlarder\r\n$1\r\na\r\n").await.unwrap();
    };
    let (auth, later, ()) = tokio::join!(connection.authenticate(&auth), connection.send(&later), play);
    assert!(matches!(auth, Err(RequestFailure::Lost(WireError::Malformed(_)))), "{auth:?}");
    assert!(matches!(later, Err(RequestFailure::Lost(_))), "{later:?}");
    until("the end", || !log.lock().unwrap().is_empty()).await;
}

/// With few and with many replies: of many, half are held back until the callers of the others ran.
#[tokio::test]
async fn replies_behind_an_auth_that_was_not_answered_reach_no_caller() {
    for count in [4, 40] {
        let (connection, mut peer, log) = connected(1024);
        let requests: Vec<Request> = std::iter::once(Request::new("SET").arg("k").arg("v"))
            .chain((1..count).map(|_| get("a")))
            .collect();
        let auth = Request::new("AUTH").arg("secret");
        let play = async {
            let login = "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*2\r\n$4\r\nPING\r\n$6\r\nlarder\r\n";
            let set = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
            expect(&mut peer, &format!("{login}{set}{}", encoded("a").repeat(count - 1))).await;
            peer.write_all(format!("$6\r\nlarder\r\n+OK\r\n{}", "$1\r\na\r\n".repeat(count)).as_bytes())
                .await
                .unwrap();
        };
        let later = futures_util::future::join_all(requests.iter().map(|request| connection.send(request)));
        let (auth, later, ()) = tokio::join!(connection.authenticate(&auth), later, play);
        assert!(matches!(auth, Err(RequestFailure::Lost(WireError::Malformed(_)))), "{auth:?}");
        for answer in later {
            assert!(matches!(answer, Err(RequestFailure::Lost(_))), "{answer:?}");
        }
        until("the end", || !log.lock().unwrap().is_empty()).await;
    }
}

#[tokio::test]
async fn an_auth_is_answered_with_and_without_the_right_to_ping() {
    for (replies, good) in [
        ("+OK\r\n$6\r\nlarder\r\n", true),
        ("+OK\r\n-NOPERM no ping\r\n", true),
        ("-WRONGPASS no\r\n$6\r\nlarder\r\n", false),
    ] {
        let (connection, mut peer, _) = connected(1024);
        let auth = Request::new("AUTH").arg("secret");
        let play = async {
            let requests = "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n*2\r\n$4\r\nPING\r\n$6\r\nlarder\r\n";
            expect(&mut peer, requests).await;
            peer.write_all(replies.as_bytes()).await.unwrap();
        };
        let (auth, ()) = tokio::join!(connection.authenticate(&auth), play);
        assert_eq!(auth.is_ok(), good, "{auth:?}");
    }
}

/// A stream that answers each request with `+OK`, all of them at once, and counts the requests in each write.
#[derive(Default)]
struct Answering {
    writes: Arc<Mutex<Vec<usize>>>,
    answers: Vec<u8>,
    reader: Option<Waker>,
}

impl tokio::io::AsyncRead for Answering {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.answers.is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buffer.put_slice(&std::mem::take(&mut self.answers));
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Answering {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let count = bytes.split(|byte| *byte == b'*').count() - 1;
        self.writes.lock().unwrap().push(count);
        self.answers.extend(b"+OK\r\n".repeat(count));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How many requests each write has while `callers` tasks each send ten requests, one after the other.
async fn writes_of(callers: usize) -> Vec<usize> {
    let stream = Answering::default();
    let writes = stream.writes.clone();
    let connection = Arc::new(Connection::start(stream, |_: Event<'_>| {}));
    let start = Arc::new(tokio::sync::Barrier::new(callers));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (connection, start) = (connection.clone(), start.clone());
        tasks.spawn(async move {
            start.wait().await;
            for _ in 0..10 {
                connection.send(&get("k")).await.unwrap();
            }
        });
    }
    timeout(LIMIT, tasks.join_all()).await.unwrap();
    let writes = writes.lock().unwrap();
    writes.clone()
}

#[tokio::test]
async fn many_callers_write_in_two_halves_so_that_the_server_works_while_they_run() {
    let writes = writes_of(64).await;
    // The first write has all requests. From then on the callers of each half of the replies send together.
    assert_eq!(writes, [&[64][..], &[32; 18]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn callers_that_are_woken_together_write_together_also_where_a_woken_task_runs_next() {
    let writes = writes_of(8).await;
    assert_eq!(writes.iter().sum::<usize>(), 80);
    assert!(writes.len() <= 20, "{writes:?}");
}

#[tokio::test]
async fn a_lone_caller_is_answered_and_writes_once_for_each_request() {
    assert_eq!(writes_of(1).await, [1; 10]);
}
