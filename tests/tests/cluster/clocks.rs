//! A machine whose clock is wrong.

use rung_tests::cluster::SOON;
use rung_tests::preload::{self, PRELOAD};
use rung_tests::{Cluster, run};

/// Moves what a program sees of the wall clock by `CLOCK_OFFSET` seconds.
const SHIFTED_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    const char *offset = getenv("CLOCK_OFFSET");
    if (result == 0 && clock == CLOCK_REALTIME && offset) now->tv_sec += atol(offset);
    return result;
}
"#;

#[test]
fn a_node_whose_clock_is_far_off_does_not_join_and_is_told_why() {
    let mut cluster = Cluster::builder().nodes(1).start();
    cluster.make_token(1);
    let shifted_clock = preload::build(cluster.dir(), "clock", SHIFTED_CLOCK);
    let data = cluster.data("n2").display().to_string();
    let words = cluster.join_arguments(2);
    let joins_with = |seconds: i64| {
        let mut command = cluster.rungd(&["--data", &data]);
        command.args(&words).env(PRELOAD, &shifted_clock);
        command.env("CLOCK_OFFSET", seconds.to_string());
        run(&mut command, SOON)
    };
    for seconds in [-7 * 86_400, -300, 300, 3_600, 400 * 86_400] {
        let refused = joins_with(seconds).expect(1).saying("code: clock-skew\n");
        println!("{seconds} s: {}", refused.stderr);
        let told = refused.saying("set the clock");
        assert!(!told.says("panicked"), "{told}");
    }
    // It cost neither the token nor the directory anything.
    cluster.join(2);
    cluster.wait_joined("n2");
    assert_eq!(cluster.status().nodes.len(), 2);
}
