//! *link*: how this machine reaches the servers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder::admin::{Deployment, ServerAddress};

use super::connection::{Connection, Failure, Login};
use super::exam::{Exam, Node};
use super::report::Report;
use super::resp::Reply;

/// The clocks at an earlier moment, by server: this machine's monotonic one and the server's.
pub(crate) type Clocks = HashMap<ServerAddress, (Instant, Duration)>;

const PINGS: usize = 200;
/// The longest that the pings take together.
const PING_TIME: Duration = Duration::from_secs(1);
/// How many connections are compared behind one name.
const CONNECTIONS: usize = 4;

/// Reports why no server could be reached.
pub(crate) fn unreachable(failure: &Failure, report: &mut Report) {
    let fix = match failure {
        Failure::Login(_) => "give the user (--user) and its password (LARDER_PASSWORD, --password-file)",
        Failure::Tls(why) if why.contains("xpired") => {
            report.problem(3, "the server's certificate has expired", "renew the certificate");
            "renew the server's certificate"
        }
        Failure::Tls(_) => {
            "give the authority that signed the certificate (--tls-ca), and the host name that it is for; redis:// \
             instead of rediss:// if the server has no TLS"
        }
        Failure::Unreachable(_) | Failure::Silent => {
            "start the server, or correct the URL (--url, LARDER_URL): ./redis-management.sh start"
        }
    };
    report.problem(1, format!("not reached: {failure}"), fix);
}

pub(crate) async fn examine(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    reached(exam, report).await?;
    encrypted(exam, report);
    certificate(exam, report);
    if report.wants(&[4]) {
        login(exam, report).await;
    }
    protocol(exam, report);
    if report.wants(&[6]) {
        round_trips(exam, report).await?;
    }
    if report.wants(&[8]) {
        one_server(exam, report).await?;
    }
    Ok(())
}

async fn reached(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    let nodes = exam.nodes.len();
    let fallback = exam.options.login.username.clone().unwrap_or_else(|| "default".to_owned());
    let node = exam.first_mut()?;
    let user = node.connection.call(&["ACL", "WHOAMI"]).await?;
    let user = if user.error().is_some() { fallback } else { user.text().unwrap_or(fallback) };
    let how = match (&node.connection.tls, &node.address) {
        (Some(tls), _) => tls.version,
        (None, ServerAddress::Unix(_)) => "Unix socket",
        (None, ServerAddress::Tcp { .. }) => "no TLS",
    };
    let others = if nodes > 1 { format!(" and {} more", nodes - 1) } else { String::new() };
    report.good(1, format!("reached {}{others}, {how}, user {user}", node.address));
    Ok(())
}

fn encrypted(exam: &Exam, report: &mut Report) {
    let Some(node) = exam.first() else { return };
    if node.connection.tls.is_some() {
        report.good(2, "encrypted by TLS");
    } else if exam.nodes.iter().all(|node| is_local(&node.address)) {
        report.good(2, "not encrypted, and it does not leave this machine");
    } else {
        let fix = "give the server a certificate (tls-port, tls-cert-file, tls-key-file) and use rediss://";
        report.warning(2, "not encrypted, over a network", fix);
    }
}

fn certificate(exam: &Exam, report: &mut Report) {
    let ends: Vec<(&Node, SystemTime)> =
        exam.nodes.iter().filter_map(|node| Some((node, node.connection.tls.as_ref()?.not_after?))).collect();
    let Some((node, end)) = ends.iter().min_by_key(|(_, end)| *end) else {
        return report.inapplicable(3, "no TLS, so no certificate");
    };
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    let days = left.as_secs() / 86_400;
    let measured = format!("the certificate{} ends in {days} days", exam.at(node));
    let fix = "renew the certificate, and let a timer renew it from now on";
    if days < 3 {
        report.problem(3, measured, fix);
    } else if (days as f64) < exam.options.limit(3, 21.0) {
        report.warning(3, measured, fix);
    } else {
        report.good(3, measured);
    }
}

/// Tries without a login. A connection that already has none shows the same.
async fn login(exam: &Exam, report: &mut Report) {
    let Some(node) = exam.first() else { return };
    let open = async {
        let mut connection = Connection::dial(&node.address, exam.options.login.tls.clone()).await?;
        connection.call(&["PING"]).await
    };
    let fix =
        "give the server a password (requirepass), or turn the default user off: ACL SETUSER default off";
    match open.await {
        Ok(Reply::Text(_)) if is_local(&node.address) => {
            report.warning(4, "no login is required, from this machine at least", fix);
        }
        Ok(Reply::Text(_)) => report.problem(4, "no login is required, over the network", fix),
        Ok(Reply::Error(_)) => report.good(4, "a login is required"),
        Ok(_) | Err(_) => report.good(4, "a connection without a login is closed"),
    }
}

fn protocol(exam: &Exam, report: &mut Report) {
    match exam.nodes.iter().find_map(|node| Some((node, node.connection.protocol.as_ref().err()?))) {
        None => report.good(5, "RESP3"),
        Some((node, why)) => report.problem(
            5,
            format!("HELLO 3 is refused{} ({why})", exam.at(node)),
            "use Redis 6.0 or newer without a proxy that speaks RESP2; on 6.0 let the default user run HELLO, \
             or turn that user off instead of removing its commands",
        ),
    }
}

async fn round_trips(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    let limit = Duration::from_secs_f64(exam.options.limit(6, 10.0).max(0.0) / 1_000.0);
    let node = exam.first_mut()?;
    let begin = Instant::now();
    let mut times = Vec::with_capacity(PINGS);
    while times.len() < PINGS && begin.elapsed() < PING_TIME {
        let sent = Instant::now();
        let reply = node.connection.call(&["PING"]).await?;
        if let Some(error) = reply.error() {
            report.unmeasured(6, format!("round trips: {error}"));
            return Ok(());
        }
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    let (half, most) = (percentile(&times, 50), percentile(&times, 99));
    let measured = format!("PING takes {} (p50), {} (p99)", millis(half), millis(most));
    let fix = "run the program nearer to the server, or look for a busy server (L25, L26) or network";
    if half > Duration::from_millis(125) {
        report.problem(6, measured, fix);
    } else if half > limit || most > limit * 20 {
        report.warning(6, measured, fix);
    } else {
        report.good(6, measured);
    }
    Ok(())
}

/// Compares the clocks: this machine's with each server's, and each server's with what it was before.
pub(crate) async fn clocks(exam: &mut Exam, clocks: &mut Clocks, report: &mut Report) -> Result<(), Failure> {
    let limit = exam.options.limit(7, 1.0);
    let (mut worst, mut stepped) = (0.0_f64, 0.0_f64);
    for node in &mut exam.nodes {
        let sent = Instant::now();
        let reply = node.connection.call(&["TIME"]).await?;
        let arrived = Instant::now();
        if let Some(error) = reply.error() {
            report.unmeasured(7, format!("the server's clock: {error}"));
            return Ok(());
        }
        let part =
            |index: usize| reply.at(index).and_then(Reply::int).and_then(|part| u64::try_from(part).ok());
        let (Some(seconds), Some(micros)) = (part(0), part(1)) else { continue };
        let server = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let slack = (arrived - sent).as_secs_f64();
        let difference = here.as_secs_f64() - server.as_secs_f64();
        if difference.abs() - slack > worst.abs() {
            worst = difference;
        }
        // Between two measurements both clocks move by the same, unless the server's was set. The monotonic clock here
        // cannot be set. What is left is the time that the answers were under way.
        if let Some((then, before)) = clocks.insert(node.address.clone(), (arrived, server)) {
            let step = (server.as_secs_f64() - before.as_secs_f64()) - (arrived - then).as_secs_f64();
            if step.abs() - slack > stepped.abs() {
                stepped = step;
            }
        }
    }
    let ahead = if worst > 0.0 { "behind" } else { "ahead of" };
    let measured = format!("a server's clock is {:.3} s {ahead} this machine's", worst.abs());
    let fix = "run chrony or another NTP client on every machine; let it slew the clock, and not step it";
    if stepped.abs() > 0.5 {
        report.problem(7, format!("a server's clock stepped by {stepped:+.3} s meanwhile"), fix);
    } else if worst.abs() > limit {
        report.warning(7, measured, fix);
    } else {
        report.good(7, measured);
    }
    Ok(())
}

/// Connects several times, and to every address of the name, and compares the servers' run ids.
async fn one_server(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    let Some(node) = exam.first() else { return Ok(()) };
    let (Deployment::Single, ServerAddress::Tcp { host, port }) =
        (&exam.options.target.deployment, &node.address)
    else {
        report.inapplicable(8, "no name with several servers behind it");
        return Ok(());
    };
    let Some(own) = node.info("run_id").map(str::to_owned) else {
        report.unmeasured(8, "run ids: the user may not read INFO");
        return Ok(());
    };
    let mut addresses = vec![node.address.clone(); CONNECTIONS];
    // With TLS the certificate is for the name, so that the addresses behind it cannot be dialled one by one.
    if exam.options.login.tls.is_none() {
        let resolved = tokio::net::lookup_host((host.as_str(), *port)).await;
        let resolved = resolved.map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        addresses.extend(
            resolved
                .iter()
                .take(8)
                .map(|address| ServerAddress::Tcp { host: address.ip().to_string(), port: *port }),
        );
    }
    let mut ids = vec![own];
    for address in addresses {
        if let Ok(id) = run_id(&address, &exam.options.login).await
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    if let [_] = ids.as_slice() {
        report.good(8, format!("every connection to {host} reaches the same server"));
    } else {
        report.problem(
            8,
            format!("{} different servers answer for {host}:{port}", ids.len()),
            "give each master a name of its own, or use redis-sentinel:// or redis-cluster://",
        );
    }
    Ok(())
}

async fn run_id(address: &ServerAddress, login: &Login) -> Result<String, Failure> {
    let mut connection = Connection::open(address, login).await?;
    let info = connection.call(&["INFO", "server"]).await?.text().unwrap_or_default();
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    id.map(|id| id.trim().to_owned()).ok_or_else(|| Failure::Unreachable("no run id".to_owned()))
}

/// Whether bytes to this address stay on the machine.
fn is_local(address: &ServerAddress) -> bool {
    match address {
        ServerAddress::Unix(_) => true,
        ServerAddress::Tcp { host, .. } => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

/// Returns a percentile of sorted times.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

/// Writes a short time: `0.42 ms`.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use larder::admin::ServerUrl;

    use super::*;

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (url, local) in [
            ("redis://127.0.0.1", true),
            ("redis://localhost", true),
            ("redis://[::1]", true),
            ("redis+unix:///run/r.sock", true),
            ("redis://10.0.0.1", false),
            ("redis://cache.internal", false),
        ] {
            let url = ServerUrl::parse(url).unwrap().unwrap();
            assert!(url.addresses.iter().all(|address| is_local(address) == local), "{url:?}");
        }
    }
}
