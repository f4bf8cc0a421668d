//! The testkit's own connection to a server.
//!
//! It uses a unix socket in the server's folder, whatever else the server listens on. So it needs no TLS, and always
//! reaches the server that was started there. It is opened when first needed, and reopened after it broke.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{
    Client, Cmd, Connection, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    RedisResult,
};

/// Longer than any reply takes, and short enough that a test on a paused server ends.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Admin {
    socket: PathBuf,
    password: Option<String>,
    connection: Mutex<Option<Connection>>,
}

impl Admin {
    pub(crate) fn new(socket: &Path, password: Option<&str>) -> Self {
        Self {
            socket: socket.to_owned(),
            password: password.map(str::to_owned),
            connection: Mutex::new(None),
        }
    }

    pub(crate) fn query<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let mut cmd = Cmd::new();
        for part in command {
            cmd.arg(part);
        }
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = slot.as_mut() {
            match cmd.query(open) {
                // The server has closed it since the last command: by CLIENT KILL, or by a restart outside the testkit.
                Err(error) if error.is_connection_dropped() => *slot = None,
                Err(error) if error.is_io_error() => {
                    *slot = None;
                    return Err(error);
                }
                answer => return answer,
            }
        }
        let mut fresh = self.connect()?;
        let answer = cmd.query(&mut fresh);
        if !answer.as_ref().is_err_and(redis::RedisError::is_io_error) {
            *slot = Some(fresh);
        }
        answer
    }

    /// Drops the connection, because its server is about to end.
    pub(crate) fn close(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn connect(&self) -> RedisResult<Connection> {
        // No CLIENT SETINFO: it would be in the counts of calls, and 6.0 does not know it.
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let info =
            ConnectionAddr::Unix(self.socket.clone()).into_connection_info()?.set_redis_settings(settings);
        let connection = Client::open(info)?.get_connection()?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }
}
