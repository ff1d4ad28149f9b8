//! The server's side of the API: a thread that accepts, a thread for each request.
//!
//! The socket lies in a folder that only its owner can enter, so whoever connects is the owner.

use std::io::{self, Cursor, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tiny_http::{Header, Method, Request, Response, Server};
use tracing::{debug, error};

use super::{
    CheckpointTo, DumpTo, Failure, GcoreTo, ResumeFrom, ResumedProcess, SnapshotRequest, Status,
};
use crate::checkpoint::Checkpoint;
use crate::image::Home;
use crate::introspect::{self, Kernel, Root, SourceMap};
use crate::metrics;
use crate::render::{Consistency, Envelope};
use crate::runtime::{Afterwards, FREEZE_PATIENCE, Taken, Then, Vm, VmError, Wanted, trim_heap};
use crate::sandbox::{self, Role};
use crate::thread;

/// Serves `vm` on `listener` until the process ends.
pub fn serve(vm: Arc<Vm>, listener: UnixListener) -> io::Result<()> {
    thread::named("api").spawn(move || {
        // The threads that the server starts are confined with this one.
        sandbox::enter(Role::Api);
        let server = match Server::from_listener(listener, None) {
            Ok(server) => server,
            // Whoever connects is told that nobody is there.
            Err(error) => return error!(%error, "nobody can be served"),
        };
        for mut request in server.incoming_requests() {
            let vm = Arc::clone(&vm);
            let answer = move || {
                let _caller = vm.caller();
                let response = answer(&vm, &mut request);
                let (method, path) = (request.method(), request.url());
                debug!(%method, path, status = response.status_code().0, "answered");
                // A client that went away does not want its answer.
                let _ = request.respond(response);
                // What a large view took is not needed again soon.
                trim_heap();
            };
            // Without memory for a thread the client sees its connection closed.
            let _ = thread::named("api-request").spawn(answer);
        }
    })?;
    Ok(())
}

type Body = Response<Cursor<Vec<u8>>>;

fn answer(vm: &Vm, request: &mut Request) -> Body {
    let url = request.url().to_owned();
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    let method = request.method().clone();
    let result = match (&method, path) {
        (Method::Get, "/v1/vm") => {
            Ok(json(200, &Status { info: vm.info().clone(), state: vm.state() }))
        }
        (Method::Post, "/v1/pause") => vm.pause().map(|()| empty()).map_err(vm_error),
        (Method::Post, "/v1/unpause") => vm.unpause().map(|()| empty()).map_err(vm_error),
        (Method::Post, "/v1/snapshot") => snapshot(vm, request).map(|taken| json(200, &taken)),
        (Method::Post, "/v1/kill") => {
            vm.kill();
            Ok(empty())
        }
        (Method::Post, "/v1/dump") => post::<DumpTo>(request).and_then(|to| {
            only_beside(&to.path);
            vm.dump(&to.path).map(|()| empty()).map_err(vm_error)
        }),
        (Method::Post, "/v1/gcore") => post::<GcoreTo>(request).and_then(|to| {
            only_beside(&to.path);
            vm.gcore(to.pid, &to.path).map(|()| empty()).map_err(vm_error)
        }),
        (Method::Post, "/v1/checkpoint") => post::<CheckpointTo>(request).and_then(|to| {
            only_beside(&to.dir);
            let then = if to.kill { Then::Kill } else { Then::Run };
            vm.checkpoint(to.pid, to.tree, &to.dir, then).map(|()| empty()).map_err(vm_error)
        }),
        (Method::Post, "/v1/resume") => post::<ResumeFrom>(request)
            .and_then(|from| resume(vm, &from))
            .map(|pid| json(200, &pid)),
        (Method::Get, "/v1/exit") => vm
            .wait(None)
            .map(|outcome| json(200, &outcome))
            .ok_or_else(|| (410, "the VM has ended".to_owned())),
        (Method::Get, "/metrics") => {
            Ok(Response::from_string(vm.metrics()).with_header(content_type(metrics::MEDIA_TYPE)))
        }
        (Method::Get, "/v1/console") => Ok(Response::from_data(vm.console_tail())
            .with_header(content_type("application/octet-stream"))),
        (Method::Get, path) => match path.strip_prefix("/v1/view/") {
            Some(view) => show(vm, view, query).map(|envelope| json(200, &envelope)),
            None => Err((404, format!("no such path: {path}"))),
        },
        (method, path) => Err((404, format!("no such request: {method} {path}"))),
    };
    result.unwrap_or_else(|(code, error)| json(code, &Failure { error }))
}

/// The body of a request.
fn post<T: DeserializeOwned>(request: &mut Request) -> Result<T, (u16, String)> {
    /// Larger requests are nobody's.
    const MAX_BODY: u64 = 1 << 20;
    let body = request.as_reader().take(MAX_BODY);
    serde_json::from_reader(body).map_err(|e| (400, format!("the request makes no sense: {e}")))
}

/// From here on, while hostile memory is read, only `file` and what stands beside it can be opened.
fn only_beside(file: &Path) {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    sandbox::only_files(&[], &[folder.unwrap_or(Path::new("."))]);
}

/// Saves the VM as the body of the request says.
fn snapshot(vm: &Vm, request: &mut Request) -> Result<Taken, (u16, String)> {
    let wanted: SnapshotRequest = post(request)?;
    if !wanted.dir.is_absolute() {
        return Err((400, format!("{} is no absolute path", wanted.dir.display())));
    }
    only_beside(&wanted.dir);
    let how = Wanted {
        afterwards: if wanted.stop { Afterwards::Stop } else { Afterwards::Run },
        sequence: None,
        patience: wanted.timeout_ms.map_or(FREEZE_PATIENCE, Duration::from_millis),
    };
    vm.snapshot(&wanted.dir, &how).map_err(vm_error)
}

/// Lets the processes of a checkpoint go on in the VM.
fn resume(vm: &Vm, from: &ResumeFrom) -> Result<ResumedProcess, (u16, String)> {
    // From here on files are read that may be anybody's.
    sandbox::only_files(&[&from.dir], &[]);
    let checkpoint = Checkpoint::open(&from.dir).map_err(|e| (422, e.to_string()))?;
    let pid = vm.resume_processes(&checkpoint).map_err(vm_error)?;
    Ok(ResumedProcess { pid })
}

/// Makes the view `name` with the arguments in `query` while the guest stands still.
fn show(vm: &Vm, name: &str, query: &str) -> Result<Envelope, (u16, String)> {
    let request = parse_view(name, query).map_err(|error| (400, error))?;
    let walks_stacks = matches!(request, introspect::Request::Bt { .. });
    let source = if walks_stacks { source_map(vm) } else { None };
    // From here on hostile memory is read.
    sandbox::close_files();
    let answer = vm.look_at_machine(|machine| {
        // QEMU takes a while to tell them, so nobody else asks.
        let cpus = if walks_stacks { machine.registers() } else { Ok(vec![]) };
        let memory = machine.memory();
        let answer = cpus.map_err(VmError::from).map(|cpus| {
            let cpus = cpus.iter().map(|cpu| cpu.general);
            let kernel = Kernel::open(&*memory, true).map(|kernel| kernel.with_cpus(cpus));
            kernel.and_then(|kernel| introspect::view(&kernel, &request, source.as_ref()))
        });
        let quiesced = matches!(&answer, Ok(Ok(seen)) if seen.consistency == Consistency::Quiesced);
        (answer, quiesced)
    });
    let answer = answer.and_then(|answer| answer).map_err(vm_error)?;
    let answer = answer.map_err(|e| (422, e.to_string()))?;
    Ok(answer.envelope(vm.info().name.clone()))
}

/// The source lines of the guest's kernel, if its ELF file is here. Read before the guest is stopped: it
/// takes a while.
fn source_map(vm: &Vm) -> Option<SourceMap> {
    let root = Root::find(&*vm.memory()).ok()?;
    SourceMap::open(&Home::find().ok()?.kernel_elf(), root.build_id())
}

/// `maps` and `pid=7` as a request. Numbers may be decimal or `0x…`.
fn parse_view(name: &str, query: &str) -> Result<introspect::Request, String> {
    let mut fields = Map::new();
    fields.insert("view".into(), name.into());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        };
        fields.insert(key.into(), number.map_or_else(|| value.into(), Value::from));
    }
    serde_json::from_value(Value::Object(fields)).map_err(|e| format!("view {name}: {e}"))
}

fn vm_error(error: VmError) -> (u16, String) {
    let code = match error {
        VmError::Ended(_) => 410,
        VmError::Checkpoint(_) | VmError::Hold { .. } | VmError::Resume(_) => 422,
        VmError::NotListening(_) | VmError::Silent(_) | VmError::Paused(_) | VmError::Freeze(_) => {
            409
        }
        VmError::Backend(_) | VmError::Dump(_) | VmError::Snapshot(_) => 500,
    };
    (code, error.to_string())
}

fn json(code: u16, body: &impl Serialize) -> Body {
    let text = serde_json::to_vec(body).expect("the API's types serialise to JSON");
    Response::from_data(text).with_status_code(code).with_header(content_type("application/json"))
}

fn empty() -> Body {
    Response::from_data(Vec::new()).with_status_code(204)
}

fn content_type(value: &str) -> Header {
    Header::from_bytes("Content-Type", value).expect("a media type is a valid header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_view_takes_numbers_of_both_bases() {
        let request = parse_view("vtop", "pid=7&addr=0xffff0000").unwrap();
        assert_eq!(request, introspect::Request::Vtop { pid: 7, addr: 0xffff_0000 });
        assert_eq!(parse_view("ps", ""), Ok(introspect::Request::Ps));
    }

    #[test]
    fn parse_view_refuses_unknown_views_and_missing_arguments() {
        assert!(parse_view("nonsense", "").is_err());
        assert!(parse_view("maps", "").unwrap_err().contains("pid"));
        assert!(parse_view("maps", "pid=abc").is_err());
    }
}
