//! Logging in on a new connection.
//!
//! The login takes one round trip. It sends `HELLO 3` with the credentials, `SELECT`, and the library's name and
//! version (`CLIENT SETINFO`, whose refusal is ignored). If the ACL forbids `HELLO`, as it can on Redis 6, `AUTH` and
//! `HELLO` without credentials are tried one after the other. If `HELLO` is refused again, the connection stays in
//! RESP2. RESP2 has no pushes, so nothing is tracked on such a connection. A server that does not know `HELLO` is too
//! old for larder: the login fails.

use super::connection::Connection;
use super::error::{ServerError, WireError};
use super::reply::Reply;
use super::request::Request;

/// The credentials and the database of a new connection.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Greeting<'a> {
    pub(in super::super) username: Option<&'a str>,
    pub(in super::super) password: Option<&'a str>,
    pub(in super::super) database: u32,
}

/// Logs in, and returns whether the connection speaks RESP3. One round trip; up to three if the ACL forbids `HELLO`.
pub(in super::super) async fn greet(
    connection: &Connection,
    greeting: Greeting<'_>,
) -> Result<bool, WireError> {
    let mut first = vec![greeting.hello()];
    first.extend(greeting.select());
    first.extend(greeting.library());
    let mut replies = connection.send_all(&first).await?.into_iter();
    // An error of `SELECT` fails the login: requests would go to the wrong database.
    let selected = |reply: Option<Reply>| match reply {
        Some(Reply::Error(error)) => Err(WireError::Server(error)),
        _ => Ok(()),
    };
    match replies.next() {
        Some(Reply::Error(error)) if is_forbidden(&error) => {}
        Some(Reply::Error(error)) => return Err(error.into()),
        _ if greeting.database == 0 => return Ok(true),
        _ => return selected(replies.next()).map(|()| true),
    }
    // The ACL forbids `HELLO`: log in with `AUTH`, and try `HELLO` again as that user.
    if let Some(auth) = greeting.auth() {
        connection.send(&auth).await?;
    }
    let mut second = vec![Request::new("HELLO").arg("3")];
    second.extend(greeting.select());
    second.extend(greeting.library());
    let mut replies = connection.send_all(&second).await?.into_iter();
    let resp3 = match replies.next() {
        Some(Reply::Error(error)) if is_forbidden(&error) => false,
        Some(Reply::Error(error)) => return Err(error.into()),
        _ => true,
    };
    if greeting.database != 0 {
        selected(replies.next())?;
    }
    Ok(resp3)
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
