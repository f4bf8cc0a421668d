//! Opens one connection to an address, logs in, and asks what server it leads to: one round trip, after those that TCP
//! and TLS take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::error::translate;
use super::full;
use super::identity::{Identity, Role, identify, questions};
use super::login::Login;
use super::time::TimeAnswer;
use super::wire::{Connection, Event, Greeted, Request, WireError, connect, greet};
use crate::credentials::CurrentCredentials;
use crate::endpoint::Address;
use crate::error::{Error, ErrorKind, Result};

/// An open connection, and what the server said about itself.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    /// Whether the server sends pushes on it.
    pub(super) resp3: bool,
    pub(super) address: Address,
    pub(super) identity: Identity,
    /// The server's clock.
    pub(super) time: TimeAnswer,
    /// The credentials of the login, if they come from a provider and may change.
    pub(super) credentials: Option<CurrentCredentials>,
}

pub(super) async fn open_and_identify(address: &Address, login: &Login, events: Events) -> Result<Dialled> {
    let OpenedConnection { connection, greeted, credentials } =
        open(address, login, &questions(&login.client_name), Some(events)).await?;
    let resp3 = greeted.hello.is_some();
    let (identity, time) = identify(&connection, greeted)
        .await
        .map_err(|failure| translate(&WireError::from(failure), &address.to_string()))?;
    login.learned.note(&identity.eviction);
    Ok(Dialled { connection, resp3, address: address.clone(), identity, time, credentials })
}

/// The states of the gate that holds back the events of a connection until it is used.
const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const ENDED: u8 = 2;

/// Opens a connection to a server that Sentinel named. Fails if the server is not a master.
pub(super) async fn open_master(address: &Address, login: &Login, events: Events) -> Result<Dialled> {
    // A candidate that is passed over must not report its end: the listener would take it for the end of the
    // connection in use. No invalidation is lost before the gate opens, because tracking is switched on later.
    let gate = Arc::new(AtomicU8::new(CLOSED));
    let gated = {
        let gate = gate.clone();
        move |event: &Event<'_>| {
            // The end of the connection, or the opening of the gate: whichever is first is seen by the other.
            let opened = match event {
                Event::Ended { .. } => {
                    gate.compare_exchange(CLOSED, ENDED, Ordering::AcqRel, Ordering::Acquire)
                }
                Event::Push(_) => Err(gate.load(Ordering::Acquire)),
            };
            if opened == Err(OPEN) {
                events(event);
            }
        }
    };
    let dialled = open_and_identify(address, login, Arc::new(gated)).await?;
    check_master(&dialled)?;
    match gate.compare_exchange(CLOSED, OPEN, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(dialled),
        Err(_) => Err(Error::new(ErrorKind::Disconnected, format!("the connection to {address} broke"))),
    }
}

/// Fails unless the server is a master. During a failover a sentinel may still name the old master, or a replica that
/// is not promoted yet.
fn check_master(dialled: &Dialled) -> Result<()> {
    let address = &dialled.address;
    match dialled.identity.role {
        Some(Role::Master) => Ok(()),
        Some(Role::Replica) => Err(Error::new(
            ErrorKind::ReadOnly,
            format!("Sentinel names {address} as the master, but it is not one yet: retry"),
        )),
        None => Err(Error::new(
            ErrorKind::Permission,
            format!("{address} does not say whether it is the master: allow the user +role"),
        )),
    }
}

pub(super) type Events = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// A connection after the login, and its credentials if they may change.
pub(super) struct OpenedConnection {
    pub(super) connection: Connection,
    pub(super) greeted: Greeted,
    credentials: Option<CurrentCredentials>,
}

/// Connects, logs in, and asks the questions in the login's round trip.
pub(super) async fn open(
    address: &Address,
    login: &Login,
    questions: &[Request],
    events: Option<Events>,
) -> Result<OpenedConnection> {
    let credentials = match &login.credentials {
        Some(source) => Some(source.current().await?),
        None => None,
    };
    let opened = async {
        let stream = connect(address, login.tls.as_deref()).await?;
        let connection = Connection::start(stream, move |event: Event<'_>| {
            if let Some(events) = &events {
                events(&event);
            }
        });
        let greeted =
            greet(&connection, login.greeting(credentials.as_ref()), questions, &login.clock).await?;
        Ok::<_, WireError>((connection, greeted))
    };
    let error = match opened.await {
        Ok((connection, greeted)) => return Ok(OpenedConnection { connection, greeted, credentials }),
        Err(error) => translate(&error, &address.to_string()),
    };
    if let (ErrorKind::Authentication, Some(source), Some(kept)) =
        (error.kind(), &login.credentials, &credentials)
    {
        source.refused(kept.number).await;
    }
    if error.kind() == ErrorKind::Disconnected && login.tls.is_none() && full::is_full(address).await {
        return Err(full::error(address));
    }
    Err(error)
}
