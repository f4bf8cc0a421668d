//! The fault proxy in front of a real server.
#![expect(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use larder_testkit::{Direction, Proxy, Server, eventually};

const LIMIT: Duration = Duration::from_secs(20);
/// What does not come within it, is held; what comes later would have come far sooner.
const SILENCE: Duration = Duration::from_millis(150);

/// A client that speaks the protocol's inline form: words in, a line out.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&self, text: &str) {
        self.0.get_ref().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(&format!("{command}\r\n"));
        self.line()
    }

    /// Whether nothing comes for a while.
    fn hears_nothing(&mut self) -> bool {
        self.0.get_ref().set_read_timeout(Some(SILENCE)).unwrap();
        let heard = self.0.fill_buf().map(<[u8]>::to_vec);
        self.0.get_ref().set_read_timeout(Some(LIMIT)).unwrap();
        heard.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Whether the other side closes, or has closed, the connection.
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn server() -> Server {
    Server::builder().tcp().start()
}

async fn in_front_of(server: &Server) -> Proxy {
    Proxy::start(server.addr().unwrap()).await
}

async fn stand(proxy: &Proxy, count: usize) {
    let standing = tokio::time::timeout(LIMIT, proxy.until_connections(count)).await;
    assert!(standing.is_ok(), "{} connections are open, not {count}", proxy.connections());
}

#[tokio::test]
async fn a_redirect_leads_new_clients_elsewhere_and_leaves_the_others() {
    let (one, other) = (server(), server());
    one.command(&["SET", "name", "1"]);
    other.command(&["SET", "name", "2"]);
    let proxy = in_front_of(&one).await;
    let ask = |client: &mut Client| (client.ask("GET name"), client.line());
    let mut before = Client::connect(&proxy);
    assert_eq!(ask(&mut before).1, "1");
    proxy.redirect(other.addr().unwrap());
    assert_eq!(ask(&mut Client::connect(&proxy)).1, "2");
    assert_eq!(ask(&mut before).1, "1");
}

#[tokio::test]
async fn it_forwards_and_counts() {
    let server = server();
    let proxy = in_front_of(&server).await;
    assert_eq!(proxy.url(), format!("redis://{}", proxy.address()));
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("SET greeting hello"), "+OK");
    assert_eq!((client.ask("GET greeting"), client.line()), ("$5".to_owned(), "hello".to_owned()));
    assert_eq!(proxy.connections(), 1);
    assert_eq!(proxy.bytes(Direction::ToServer), "SET greeting hello\r\nGET greeting\r\n".len() as u64);
    assert_eq!(proxy.bytes(Direction::ToClient), "+OK\r\n$5\r\nhello\r\n".len() as u64);
    assert_eq!(
        proxy.bytes(Direction::Both),
        proxy.bytes(Direction::ToServer) + proxy.bytes(Direction::ToClient)
    );

    drop(client);
    stand(&proxy, 0).await;
    let mut other = Client::connect(&proxy);
    assert_eq!(other.ask("QUIT"), "+OK");
    assert!(other.is_closed(), "the server's end of a connection passes");
}

#[tokio::test]
async fn what_is_large_passes_whole_and_both_ways_at_once() {
    let server = server();
    let proxy = Proxy::start(format!("localhost:{}", server.addr().unwrap().port())).await;
    let mut client = Client::connect(&proxy);
    let size = 20_000_000;
    let value: String = (0..size).map(|at: u32| char::from(b'a' + (at % 23) as u8)).collect();
    client.send(&format!("*2\r\n$4\r\nECHO\r\n${size}\r\n{value}\r\n"));
    assert_eq!(client.line(), format!("${size}"));
    assert!(client.line() == value, "the value has changed on its way");

    // Neither side reads before it has written all: the proxy must not wait for one before it serves the other.
    let other = Client::connect(&proxy);
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| (0..1000).for_each(|_| other.send(&"PING\r\n".repeat(1000))));
        let mut answers = vec![0; 7_000_000];
        other.0.get_ref().read_exact(&mut answers).unwrap();
        answers
    });
    assert!(answers == "+PONG\r\n".repeat(1_000_000).into_bytes());
}

#[tokio::test]
async fn a_cut_closes_all_and_refuses_new_ones_until_it_is_restored() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut clients = [Client::connect(&proxy), Client::connect(&proxy)];
    for client in &mut clients {
        assert_eq!(client.ask("PING"), "+PONG");
    }
    proxy.cut();
    assert!(clients.iter_mut().all(Client::is_closed));
    stand(&proxy, 0).await;
    assert!(Client::connect(&proxy).is_closed());
    assert_eq!(proxy.connections(), 0);
    proxy.restore();
    assert_eq!(Client::connect(&proxy).ask("PING"), "+PONG");
}

#[tokio::test]
async fn nothing_passes_once_a_cut_has_returned() {
    let server = server();
    let proxy = in_front_of(&server).await;
    for _ in 0..50 {
        let mut client = Client::connect(&proxy);
        assert_eq!(client.ask("PING"), "+PONG");
        client.send("INCR n\r\n");
        proxy.cut();
        let passed = proxy.bytes(Direction::Both);
        stand(&proxy, 0).await;
        assert_eq!(proxy.bytes(Direction::Both), passed);
        proxy.restore();
    }
}

#[tokio::test]
async fn drop_connections_closes_the_open_ones_and_no_later_one() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut old = Client::connect(&proxy);
    assert_eq!(old.ask("PING"), "+PONG");
    proxy.drop_connections();
    assert!(old.is_closed());
    let mut new = Client::connect(&proxy);
    assert_eq!(new.ask("PING"), "+PONG");
    // To restore is not to drop.
    proxy.restore();
    assert_eq!(new.ask("PING"), "+PONG");
    stand(&proxy, 1).await;
}

#[tokio::test]
async fn silence_to_the_server_holds_commands() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("PING"), "+PONG");
    proxy.silence(Direction::ToServer);
    client.send("INCR n\r\n");
    let mut new = Client::connect(&proxy);
    new.send("INCR n\r\n");
    assert!(client.hears_nothing() && new.hears_nothing());
    assert_eq!(server.query::<Option<u64>>(&["GET", "n"]), None);
    assert_eq!(proxy.connections(), 2);
    proxy.restore();
    assert_eq!((client.line().len(), new.line().len()), (2, 2));
    assert_eq!(server.query::<u64>(&["GET", "n"]), 2);
}

#[tokio::test]
async fn silence_to_the_client_holds_replies_and_the_end() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("PING"), "+PONG");
    proxy.silence(Direction::ToClient);
    client.send("INCR n\r\nQUIT\r\n");
    eventually("the command arrives", LIMIT, || server.query::<Option<u64>>(&["GET", "n"]));
    assert!(client.hears_nothing());
    proxy.restore();
    assert_eq!((client.line(), client.line()), (":1".to_owned(), "+OK".to_owned()));
    assert!(client.is_closed());
    drop(client);
    stand(&proxy, 0).await;
}

#[tokio::test]
async fn a_client_that_goes_in_silence_is_still_there_for_the_server() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("PING"), "+PONG");
    let clients = || server.info("clients").remove("connected_clients").unwrap();
    let before = clients();
    proxy.silence(Direction::Both);
    drop(client);
    let gone = tokio::time::timeout(SILENCE, proxy.until_connections(0)).await;
    assert!(gone.is_err() && clients() == before);
    proxy.restore();
    stand(&proxy, 0).await;
    eventually("the server notices", LIMIT, || (clients() != before).then_some(()));
}

#[tokio::test]
async fn swallowed_replies_are_lost_though_the_command_was_done() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("PING"), "+PONG");
    let passed = proxy.bytes(Direction::ToClient);
    proxy.swallow(Direction::ToClient);
    client.send("INCR n\r\n");
    eventually("the command arrives", LIMIT, || server.query::<Option<u64>>(&["GET", "n"]));
    assert!(client.hears_nothing());
    assert_eq!(proxy.bytes(Direction::ToClient), passed);
    proxy.restore();
    assert_eq!(client.ask("ECHO back"), "$4");
}

#[tokio::test]
async fn swallowed_commands_are_never_done() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("PING"), "+PONG");
    // Also what was held before.
    proxy.silence(Direction::ToServer);
    client.send("INCR n\r\n");
    assert!(client.hears_nothing());
    proxy.swallow(Direction::ToServer);
    client.send("INCR n\r\n");
    assert!(client.hears_nothing());
    proxy.restore();
    assert_eq!(client.ask("EXISTS n"), ":0");
    // The end of a connection is not swallowed.
    proxy.swallow(Direction::Both);
    drop(client);
    stand(&proxy, 0).await;
}

#[tokio::test]
async fn a_delay_is_kept_and_so_is_the_order() {
    const DELAY: Duration = Duration::from_millis(120);
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("PING"), "+PONG");
    for (direction, least) in
        [(Direction::ToServer, DELAY), (Direction::ToClient, DELAY), (Direction::Both, 2 * DELAY)]
    {
        proxy.restore().delay(direction, DELAY);
        server.command(&["DEL", "n"]);
        let start = Instant::now();
        for _ in 0..20 {
            client.send("INCR n\r\n");
        }
        let replies: Vec<String> = (0..20).map(|_| client.line()).collect();
        assert!(start.elapsed() >= least, "{direction:?}: {:?}", start.elapsed());
        assert_eq!(replies, (1..=20).map(|n| format!(":{n}")).collect::<Vec<_>>());
    }
    // Without end, and then at once.
    proxy.delay(Direction::Both, Duration::MAX);
    client.send("PING\r\n");
    assert!(client.hears_nothing());
    proxy.restore();
    assert_eq!(client.line(), "+PONG");
}

#[tokio::test]
async fn a_delay_is_in_real_time_beside_a_paused_clock() {
    tokio::time::pause();
    let server = server();
    let proxy = in_front_of(&server).await;
    proxy.delay(Direction::ToServer, SILENCE);
    let start = Instant::now();
    assert_eq!(Client::connect(&proxy).ask("PING"), "+PONG");
    assert!(start.elapsed() >= SILENCE);
}

/// Two connections that work, the second of them tracked.
fn two(proxy: &Proxy) -> (Client, Client) {
    let (mut plain, mut tracked) = (Client::connect(proxy), Client::connect(proxy));
    assert_eq!(plain.ask("PING"), "+PONG");
    tracked.send("CLIENT TRA");
    assert!(tracked.hears_nothing());
    assert_eq!(tracked.ask("CKING ON BCAST NOLOOP"), "+OK");
    (plain, tracked)
}

#[tokio::test]
async fn faults_can_be_limited_to_tracked_connections() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let (mut plain, mut tracked) = two(&proxy);
    proxy.only_tracked().silence(Direction::ToClient);
    tracked.send("INCR n\r\n");
    assert!(tracked.hears_nothing());
    assert_eq!(plain.ask("GET n"), "$1");
    assert_eq!(plain.line(), "1");
    proxy.restore();
    assert_eq!(tracked.line(), ":1");

    proxy.only_tracked().drop_connections();
    assert!(tracked.is_closed());
    assert_eq!(plain.ask("PING"), "+PONG");
    let (_, mut tracked) = two(&proxy);

    proxy.only_tracked().cut();
    assert!(tracked.is_closed());
    assert_eq!(plain.ask("PING"), "+PONG");
    // A new one is refused at the moment when it turns tracked, and its command does not pass.
    let mut late = Client::connect(&proxy);
    assert_eq!(late.ask("PING"), "+PONG");
    let passed = proxy.bytes(Direction::ToServer);
    late.send("CLIENT TRACKING ON\r\n");
    assert!(late.is_closed());
    assert_eq!(proxy.bytes(Direction::ToServer), passed);
}

#[tokio::test]
async fn faults_can_be_limited_to_untracked_connections() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let (mut plain, mut tracked) = two(&proxy);
    proxy.only_untracked().silence(Direction::ToServer);
    plain.send("INCR n\r\n");
    assert!(plain.hears_nothing());
    assert_eq!(tracked.ask("EXISTS n"), ":0");
    // It turns tracked, so it is held no longer, though all that changed is what it sent.
    plain.send("CLIENT TRACKING ON\r\n");
    assert_eq!((plain.line(), plain.line()), (":1".to_owned(), "+OK".to_owned()));

    proxy.restore().only_untracked().cut();
    assert!(Client::connect(&proxy).is_closed());
    assert_eq!(tracked.ask("PING"), "+PONG");
    // One class is cut and the other is not: faults are added up.
    proxy.all().drop_connections();
    assert!(tracked.is_closed() && plain.is_closed());
    assert!(Client::connect(&proxy).is_closed());
}

#[tokio::test]
async fn a_connection_that_turns_tracked_outlives_earlier_drops_of_tracked_ones() {
    let server = server();
    let proxy = in_front_of(&server).await;
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ask("PING"), "+PONG");
    proxy.only_tracked().drop_connections();
    assert_eq!(client.ask("CLIENT TRACKING ON"), "+OK");
    assert_eq!(client.ask("PING"), "+PONG");
}

#[tokio::test]
async fn a_server_that_is_not_there_closes_the_client() {
    let server = server();
    let proxy = in_front_of(&server).await;
    server.kill();
    assert!(Client::connect(&proxy).is_closed());
    server.restart();
    assert_eq!(Client::connect(&proxy).ask("PING"), "+PONG");
}

#[tokio::test]
async fn a_dropped_proxy_leaves_nothing_open() {
    let server = server();
    let proxy = in_front_of(&server).await;
    proxy.silence(Direction::Both).delay(Direction::Both, LIMIT);
    let mut client = Client::connect(&proxy);
    client.send("PING\r\n");
    stand(&proxy, 1).await;
    let address = proxy.address();
    drop(proxy);
    assert!(TcpListener::bind(&address).is_ok() || TcpStream::connect(&address).is_err());
    assert!(client.is_closed());
}
