//! Logging in on a new connection.
//!
//! The login takes one round trip. It sends `HELLO 3` with the credentials, `SELECT`, the library's name and version
//! (`CLIENT SETINFO`, whose refusal is ignored), and the caller's first questions. If the ACL forbids `HELLO`, as it
//! can on Redis 6, `AUTH` and `HELLO` without credentials are tried one after the other, and the questions are asked
//! again. If `HELLO` is refused again, the connection stays in RESP2. RESP2 has no pushes, so nothing is tracked on
//! such a connection. A server that does not know `HELLO` is too old for larder: the login fails.

use super::connection::Connection;
use super::error::{ServerError, WireError};
use super::reply::Reply;
use super::request::Request;
use crate::clock::{Clock, Tick};

/// The credentials and the database of a new connection.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Greeting<'a> {
    pub(in super::super) username: Option<&'a str>,
    pub(in super::super) password: Option<&'a str>,
    pub(in super::super) database: u32,
}

/// What the server replied to the login and to the questions that followed it.
#[derive(Debug)]
pub(in super::super) struct Greeted {
    /// The reply to `HELLO`; `None` if the ACL forbids it, and the connection speaks RESP2.
    pub(in super::super) hello: Option<Reply>,
    /// One for each question.
    pub(in super::super) answers: Vec<Reply>,
    /// When the questions were sent, and when the last answer had arrived.
    pub(in super::super) sent: Tick,
    pub(in super::super) received: Tick,
}

/// Logs in, and asks the questions in the same write. One round trip; up to three if the ACL forbids `HELLO`.
pub(in super::super) async fn greet(
    connection: &Connection,
    greeting: Greeting<'_>,
    questions: &[Request],
    clock: &Clock,
) -> Result<Greeted, WireError> {
    let (first, selected) = say(connection, greeting, greeting.hello(), questions, clock).await?;
    if first.hello.is_some() {
        return selected.map(|()| first);
    }
    // The ACL forbids `HELLO`: log in with `AUTH`, and try `HELLO` again as that user.
    if let Some(auth) = greeting.auth() {
        connection.send(&auth).await?;
    }
    let (second, selected) =
        say(connection, greeting, Request::new("HELLO").arg("3"), questions, clock).await?;
    selected.map(|()| second)
}

/// Sends `HELLO` and what follows it, in one write. Returns also whether the database was selected: if not, the login
/// fails, because requests would go to the wrong database.
async fn say(
    connection: &Connection,
    greeting: Greeting<'_>,
    hello: Request,
    questions: &[Request],
    clock: &Clock,
) -> Result<(Greeted, Result<(), WireError>), WireError> {
    let select = greeting.select();
    let selects = select.is_some();
    let requests: Vec<Request> = [hello]
        .into_iter()
        .chain(select)
        .chain(greeting.library())
        .chain(questions.iter().cloned())
        .collect();
    let sent = clock.now();
    let mut replies = connection.send_all(&requests).await?.into_iter();
    let received = clock.now();
    let hello = match replies.next() {
        Some(Reply::Error(error)) if is_forbidden(&error) => None,
        Some(Reply::Error(error)) => return Err(error.into()),
        reply => reply,
    };
    let selected = match selects.then(|| replies.next()).flatten() {
        Some(Reply::Error(error)) => Err(WireError::Server(error)),
        _ => Ok(()),
    };
    let answers = replies.skip(greeting.library().len()).collect();
    Ok((Greeted { hello, answers, sent, received }, selected))
}

fn is_forbidden(error: &ServerError) -> bool {
    error.code() == "NOPERM"
}

impl Greeting<'_> {
    fn hello(&self) -> Request {
        let hello = Request::new("HELLO").arg("3");
        match self.password {
            Some(password) => hello.arg("AUTH").arg(self.username.unwrap_or("default")).arg(password),
            None => hello,
        }
    }

    /// The `AUTH` request, if there is a password.
    pub(in super::super) fn auth(&self) -> Option<Request> {
        let auth = Request::new("AUTH");
        let auth = match self.username {
            Some(username) => auth.arg(username),
            None => auth,
        };
        self.password.map(|password| auth.arg(password))
    }

    fn select(&self) -> Option<Request> {
        (self.database != 0).then(|| Request::new("SELECT").number(self.database.into()))
    }

    /// The requests that set the library's name and version. Servers before Redis 7.2 refuse them.
    fn library(&self) -> [Request; 2] {
        [("LIB-NAME", "larder"), ("LIB-VER", env!("CARGO_PKG_VERSION"))]
            .map(|(what, text)| Request::new("CLIENT").arg("SETINFO").arg(what).arg(text))
    }
}
