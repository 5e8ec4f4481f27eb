//! The usual way to build such an endpoint, as something to compare with: Fastify and
//! better-sqlite3, which tests/bench installs where there is Node.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tilld::net::tls;

use crate::Outcome;
use crate::load::Target;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/store/schema/1.sql");

/// The server as a child process; it ends when this is dropped.
pub struct Fastify {
    child: Child,
    /// Where it listens.
    pub target: Target,
}

impl Fastify {
    /// Starts it on a new database in a new directory; `None` when it is not installed.
    pub fn start(place: &Path, directory: &Path) -> Outcome<Option<Fastify>> {
        let installed = place.join("fastify");
        if !installed.join("node_modules").exists() {
            return Ok(None);
        }
        fs::create_dir(directory)?;
        tls::ensure_self_signed(&directory.join("tls"), &["localhost".to_owned()])?;
        let database = directory.join("tilld.db");
        let child = Command::new("node")
            .arg(installed.join("server.js"))
            .arg(SCHEMA)
            .arg(directory.join("tls").join(tls::CERTIFICATE_FILE))
            .arg(directory.join("tls").join(tls::KEY_FILE))
            .arg(&database)
            .stdout(Stdio::piped())
            .spawn()?;
        let target = Target { port: 0, database: Some(database) };
        let mut server = Fastify { child, target };
        let stdout = server.child.stdout.take().ok_or("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().strip_prefix("listening on ").ok_or("it does not listen")?;
        server.target.port = port.parse()?;
        Ok(Some(server))
    }
}

impl Drop for Fastify {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
