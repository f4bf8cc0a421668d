//! What a server reports about itself when a connection opens: its role, its run id, its version, and whether it
//! evicts.
//!
//! The `HELLO` of the login reports the version. Redis 6.0 checks it against the rights of the default user, so the
//! role comes from a second `HELLO`, which the connection's own user must be allowed, as heartbeats ask for it again.
//! It needs no permission since Redis 6.2. If it is refused, `ROLE` is asked. If that is refused, too, the role stays
//! unknown, and the server is treated as a master. The run id comes from `INFO`, and stays unknown if that is refused.
//! These questions are part of the login's round trip.

use super::delete_if::DeleteIf;
use super::time::TimeAnswer;
use super::wire::{Connection, Greeted, Reply, Request, RequestFailure};
use crate::store::Eviction;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    Replica,
}

/// The command that asks a connection for the role of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskRole {
    Hello,
    Role,
    /// The server refuses both.
    No,
}

#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) role: Option<Role>,
    pub(super) ask_role: AskRole,
    pub(super) run_id: Option<String>,
    /// The major number of the server's version.
    pub(super) major: Option<u32>,
    /// The server's command that deletes a key if it has a given value.
    pub(super) delete_if: Option<DeleteIf>,
    pub(super) eviction: Eviction,
}

impl Identity {
    pub(super) fn is_replica(&self) -> bool {
        self.role == Some(Role::Replica)
    }
}

/// Returns the questions of a login: they name the connection, and ask for the server's time and identity.
pub(super) fn questions(name: &str) -> [Request; 5] {
    [
        Request::new("CLIENT").arg("SETNAME").arg(name),
        Request::new("TIME"),
        AskRole::Hello.command(),
        Request::new("INFO").arg("server"),
        Request::new("INFO").arg("memory"),
    ]
}

/// Reads the answers to the [`questions`]. Costs one round trip if `HELLO` is refused, otherwise none. A refused
/// command leaves its field unknown; an error means that the connection is lost.
pub(super) async fn identify(
    connection: &Connection,
    greeted: Greeted,
) -> Result<(Identity, TimeAnswer), RequestFailure> {
    let Greeted { hello, answers, sent, received } = greeted;
    let hello = hello.unwrap_or(Reply::Nil);
    let mut answers = answers.into_iter().skip(1);
    let time = TimeAnswer { sent, received, reply: answers.next().unwrap_or(Reply::Nil) };
    let role = answers.next().and_then(|answer| AskRole::Hello.read(&answer));
    let (server, memory) = (answers.next().and_then(text), answers.next().and_then(text));
    let mut identity = Identity {
        role,
        ask_role: AskRole::Hello,
        run_id: server.as_deref().and_then(|info| field(info, "run_id")).map(str::to_owned),
        major: hello_field(&hello, "version").and_then(|version| version.split('.').next()?.parse().ok()),
        delete_if: hello_field(&hello, "server")
            .zip(hello_field(&hello, "version"))
            .and_then(|(server, version)| DeleteIf::of(server, version)),
        eviction: eviction(memory.as_deref()),
    };
    if identity.role.is_none() {
        identity.ask_role = AskRole::Role;
        let answer = match connection.send(&AskRole::Role.command()).await {
            Err(failure) if failure.is_of_connection() => return Err(failure),
            answer => answer.unwrap_or(Reply::Nil),
        };
        identity.role = AskRole::Role.read(&answer);
        if identity.role.is_none() {
            identity.ask_role = AskRole::No;
        }
    }
    Ok((identity, time))
}

impl AskRole {
    pub(super) fn command(self) -> Request {
        match self {
            // Redis 6.0 requires the number, and repeating the 3 changes nothing.
            Self::Hello => Request::new("HELLO").arg("3"),
            Self::Role | Self::No => Request::new("ROLE"),
        }
    }

    /// Reads the role from the reply to that command, if it contains one.
    pub(super) fn read(self, answer: &Reply) -> Option<Role> {
        let role = match (self, answer) {
            (Self::Hello, answer) => hello_field(answer, "role")?,
            (_, Reply::Array(parts)) => parts.first()?.as_str()?,
            _ => return None,
        };
        Some(if matches!(role, "replica" | "slave") { Role::Replica } else { Role::Master })
    }
}

fn hello_field<'a>(hello: &'a Reply, name: &str) -> Option<&'a str> {
    let Reply::Map(fields) = hello else { return None };
    fields.iter().find_map(|(key, value)| if key.as_str()? == name { value.as_str() } else { None })
}

fn text(value: Reply) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Returns a field of the reply to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Reads the eviction policy from `INFO memory`. A server that does not report it is still used.
fn eviction(memory: Option<&str>) -> Eviction {
    let field = |name| memory.and_then(|info| field(info, name));
    match (field("maxmemory"), field("maxmemory_policy")) {
        (Some("0"), _) | (_, Some("noeviction")) => Eviction::Never,
        (_, Some(policy)) => Eviction::Evicts(policy.to_owned()),
        (_, None) => Eviction::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Event, Greeting, connect, greet};
    use super::*;
    use crate::clock::Clock;
    use crate::endpoint::Address;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.to_owned().into())
    }

    #[test]
    fn the_role_is_read_from_either_answer() {
        let hello =
            |role: &str| Reply::Map(vec![(bulk("version"), bulk("7.0.15")), (bulk("role"), bulk(role))]);
        assert_eq!(AskRole::Hello.read(&hello("master")), Some(Role::Master));
        assert_eq!(AskRole::Hello.read(&hello("replica")), Some(Role::Replica));
        assert_eq!(AskRole::Hello.read(&Reply::Map(Vec::new())), None, "a sentinel has no role");
        assert_eq!(
            AskRole::Role.read(&Reply::Array(vec![bulk("slave"), bulk("10.0.0.1")])),
            Some(Role::Replica)
        );
        assert_eq!(
            AskRole::Role.read(&Reply::Array(vec![bulk("master"), Reply::Int(0)])),
            Some(Role::Master)
        );
        assert_eq!(AskRole::Role.read(&Reply::Nil), None);
    }

    /// What the fake server answers to a command: Redis 6.0 checks the `HELLO` of a login against the rights of the
    /// default user, and each later one against those of the connection's user.
    struct Server {
        role: &'static str,
        /// Whether the default user, which a connection has until the login, may send `HELLO`.
        default_hello: bool,
        user_hello: bool,
        user_role: bool,
    }

    impl Server {
        fn reply(&self, command: &[String], user: &mut bool) -> String {
            let refused = "-NOPERM this user has no permissions to run it\r\n".to_owned();
            let hello = || {
                let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
                let fields = ["server", "redis", "version", "6.0.16", "role", self.role].map(bulk);
                format!("%3\r\n{}", fields.concat())
            };
            match command.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["HELLO", "3", "AUTH", "shop", "secret"] if self.default_hello => {
                    *user = true;
                    hello()
                }
                ["AUTH", "shop", "secret"] => {
                    *user = true;
                    "+OK\r\n".to_owned()
                }
                ["HELLO", "3"] if *user && self.user_hello => hello(),
                ["ROLE"] if *user && self.user_role => {
                    let role = if self.role == "replica" { "slave" } else { self.role };
                    format!("*1\r\n${}\r\n{role}\r\n", role.len())
                }
                _ => refused,
            }
        }

        /// Logs in as `larder` does, and returns the identity and whether the connection speaks RESP3.
        async fn identify(self) -> (Identity, bool) {
            use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
            let (ours, theirs) = tokio::io::duplex(4096);
            let server = tokio::spawn(async move {
                let (reader, mut writer) = tokio::io::split(theirs);
                let (mut lines, mut user) = (BufReader::new(reader).lines(), false);
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut command = Vec::new();
                    for _ in 0..line.trim_start_matches('*').parse().unwrap() {
                        lines.next_line().await.unwrap();
                        command.push(lines.next_line().await.unwrap().unwrap());
                    }
                    writer.write_all(self.reply(&command, &mut user).as_bytes()).await.unwrap();
                }
            });
            let connection = Connection::start(ours, |_: Event<'_>| {});
            let greeting = Greeting { username: Some("shop"), password: Some("secret"), database: 0 };
            let greeted = greet(&connection, greeting, &questions("test"), &Clock::Machine).await.unwrap();
            let resp3 = greeted.hello.is_some();
            let (identity, _) = identify(&connection, greeted).await.unwrap();
            drop(connection);
            server.await.unwrap();
            (identity, resp3)
        }
    }

    /// Heartbeats ask with the same command, so it must be one that the connection's own user may send.
    #[tokio::test]
    async fn the_role_is_asked_with_a_command_that_the_user_may_send_whoever_was_refused_hello() {
        use AskRole::{Hello, No, Role as ByRole};
        for (role, expected) in [("master", Role::Master), ("replica", Role::Replica)] {
            for (default_hello, user_hello, user_role, ask_role, resp3) in [
                (true, true, true, Hello, true),
                // The login's own `HELLO` has the role, and no later one is allowed.
                (true, false, true, ByRole, true),
                (true, false, false, No, true),
                // Refused to the default user only.
                (false, true, true, Hello, true),
                (false, true, false, Hello, true),
                // Refused to both: RESP2.
                (false, false, true, ByRole, false),
                (false, false, false, No, false),
            ] {
                let server = Server { role, default_hello, user_hello, user_role };
                let (identity, speaks_resp3) = server.identify().await;
                let case = (role, default_hello, user_hello, user_role);
                assert_eq!((identity.ask_role, speaks_resp3), (ask_role, resp3), "{case:?}");
                assert_eq!(identity.role, (ask_role != No).then_some(expected), "{case:?}");
            }
        }
    }

    /// On any version: where `HELLO` needs a permission (before 6.2), `ROLE` is asked.
    #[tokio::test]
    async fn a_users_role_is_known_on_a_real_server_that_refuses_hello_where_it_can() {
        let roles = [("no one", Role::Master), ("127.0.0.1 1", Role::Replica)];
        for ((replica_of, expected), default) in
            roles.into_iter().flat_map(|role| [(role, "+hello"), (role, "-hello")])
        {
            let server = larder_testkit::Server::builder().tcp().start();
            server.command(&["ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all", "-hello"]);
            server.command(&["ACL", "SETUSER", "default", default]);
            let (host, port) = replica_of.split_once(' ').unwrap();
            server.command(&["REPLICAOF", host, port]);
            let address = server.addr().unwrap();
            let address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
            let connection = Connection::start(connect(&address, None).await.unwrap(), |_: Event<'_>| {});
            let greeting = Greeting { username: Some("shop"), password: Some("secret"), database: 0 };
            let greeted = greet(&connection, greeting, &questions("test"), &Clock::Machine).await.unwrap();
            let (identity, _) = identify(&connection, greeted).await.unwrap();
            assert_eq!(identity.role, Some(expected));
            let needs = !server.version().at_least(6, 2);
            assert_eq!(identity.ask_role, if needs { AskRole::Role } else { AskRole::Hello });
        }
    }

    #[test]
    fn whether_a_server_evicts_is_read_from_its_memory() {
        let said = |text: &str| eviction(Some(text));
        assert_eq!(said("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"), Eviction::Never);
        assert_eq!(said("maxmemory:9\r\nmaxmemory_policy:noeviction\r\n"), Eviction::Never);
        assert_eq!(
            said("maxmemory:9\r\nmaxmemory_policy:allkeys-lfu\r\n"),
            Eviction::Evicts("allkeys-lfu".into())
        );
        assert_eq!(eviction(None), Eviction::Unknown);
    }
}
