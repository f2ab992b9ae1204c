//! What `rungd exec-app` is in a node.

fn main() {
    rung_web::exec_app()
}
