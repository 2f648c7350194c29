#pragma once

namespace nibble {

// SIGINT and SIGTERM set a flag; a second one ends the process at once. Called by the CLI, never by the library.
void install_interrupt_handler();
bool interrupted() noexcept;
// Forgets the request and waits for the next one, for interactive sessions where it only ends the current answer.
void forget_interrupt();
// Throws Error(kInterrupted) once the user asked to stop. Long loops call it at every block of work.
void check_interrupted();

}  // namespace nibble
