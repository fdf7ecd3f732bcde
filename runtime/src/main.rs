//! The `wirefall` binary: see [`wirefall::cli`].

fn main() -> std::process::ExitCode {
    wirefall::cli::main()
}
