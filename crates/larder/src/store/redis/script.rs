//! The scripts that run on the server, each an atomic step: sent by hash, and whole when the server has forgotten it.

use std::sync::LazyLock;

use redis::Cmd;

pub(super) struct Script {
    source: &'static str,
    hash: LazyLock<String>,
}

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: Script = Script {
            source: concat!($(include_str!(concat!("lua/", $file))),+),
            hash: LazyLock::new(|| redis::Script::new($name.source).get_hash().to_owned()),
        };
    };
}

script!(REMAINING, "remaining.lua");
script!(TOUCH, "touch.lua");
script!(BEGIN_FILL, "begin_fill.lua");
script!(COMMIT_FILL, "commit_fill.lua");
script!(ABANDON_FILL, "abandon_fill.lua");
script!(BEGIN_REFRESH, "begin_refresh.lua");
script!(COMMIT_REFRESH, "commit_refresh.lua");
script!(RENEW_LOAD, "renew_load.lua");
script!(RESTAMP, "restamp.lua");
script!(VERSION, "version.lua");
script!(ACQUIRE, "acquire.lua");
script!(EXTEND, "extend.lua");
script!(RELEASE, "release.lua");
script!(CHARGE, "charge.lua", "limit.lua", "charge_any.lua");
script!(REFUND, "refund.lua", "limit.lua", "refund_rest.lua");
script!(ENTER, "enter.lua");
script!(RENEW, "renew.lua");
script!(INSIDE, "inside.lua");

impl Script {
    pub(super) fn by_hash(&self, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        call("EVALSHA", &self.hash, keys, arguments)
    }

    #[cfg(test)]
    pub(super) fn source(&self) -> &'static str {
        self.source
    }

    pub(super) fn by_source(&self, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        call("EVAL", self.source, keys, arguments)
    }
}

fn call(command: &str, script: &str, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(command);
    command.arg(script).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    for argument in arguments {
        command.arg(argument);
    }
    command
}
