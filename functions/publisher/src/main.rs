#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    shared::lambda::job::run::<publisher::Publisher>().await
}
