/* libhyprstream: language models on this machine, from C. libhyprstream(3) tells more.
 * Made by cbindgen from client/capi: do not edit.
 *
 * Every text is UTF-8 and ends with NUL. A NULL or a text that is not UTF-8 where one is needed gives HYPR_BAD_ARGUMENT.
 * Beyond that, the caller promises that a client came from hypr_new() and was not freed, that a text does end with NUL, that
 * there are as many messages as `count` says, and that the callback may be called with `user`.
 * A client does one call at a time; clients do not affect each other. */

#ifndef HYPRSTREAM_H
#define HYPRSTREAM_H

#include <stddef.h>
#include <stdint.h>

// How a call ended. The daemon's codes are those of hyprstreamd(8).
typedef enum hypr_code {
    // Well.
    HYPR_OK = 0,
    // The daemon refuses the request: a value that is not allowed.
    HYPR_BAD_REQUEST = 1,
    // The daemon is too old for this library.
    HYPR_NO_SUCH_ROUTE = 2,
    // The request is larger than the daemon's limit.
    HYPR_TOO_LARGE = 3,
    // No model has this name, or there is none at all.
    HYPR_MODEL_NOT_FOUND = 4,
    // The model's files cannot be used.
    HYPR_MODEL_BROKEN = 5,
    // The model needs more memory than is left.
    HYPR_MODEL_TOO_LARGE = 6,
    // The model has no tokenizer or chat template, and the request needs one.
    HYPR_MODEL_LACKS = 7,
    // Prompt and answer do not fit the model's context.
    HYPR_CONTEXT_EXCEEDED = 8,
    // The user has no such job.
    HYPR_JOB_NOT_FOUND = 9,
    // The daemon's queue is full: try again after hypr_error_retry_ms().
    HYPR_BUSY = 10,
    // The daemon is stopping: try again after hypr_error_retry_ms().
    HYPR_STOPPING = 11,
    // The call was cancelled: by the callback, hypr_cancel(), hypr_free(), or another program of the user.
    HYPR_CANCELLED = 12,
    // This user may not do that, or may not use the socket.
    HYPR_DENIED = 13,
    // A fault of the daemon; its journal tells more.
    HYPR_INTERNAL = 14,
    // The daemon is too old for this library, or too new: the route does not take this method.
    HYPR_NO_SUCH_METHOD = 15,
    // Over TCP: no token, or a wrong one.
    HYPR_UNAUTHENTICATED = 16,
    // The daemon takes no body that is compressed; this library sends none.
    HYPR_UNSUPPORTED_ENCODING = 17,
    // No daemon answers.
    HYPR_UNREACHABLE = 100,
    // The connection ended before the answer did, or nothing came for too long.
    HYPR_CONNECTION_LOST = 101,
    // What came is not what hyprstreamd sends.
    HYPR_NOT_UNDERSTOOD = 102,
    // An argument is NULL where it must not be, is not UTF-8, or has a value that makes no sense.
    HYPR_BAD_ARGUMENT = 103,
    // hypr_connect() has not succeeded yet.
    HYPR_NOT_CONNECTED = 104,
    // Another call of the same client is under way. The error of that client stays what it was.
    HYPR_IN_USE = 105,
    // A fault of this library.
    HYPR_FAULT = 106,
} hypr_code;

// A client: where its daemon is, and its last error. One call at a time; hypr_cancel() and hypr_free() may come at any time.
typedef struct hypr_client hypr_client;

// Takes a piece of the answer: `length` bytes of whole UTF-8 characters, and a NUL behind them. They are gone when it returns.
// 0 goes on, anything else cancels the call. It must return: neither longjmp() nor an exception may leave it.
typedef int (*hypr_on_text)(const char *text, size_t length, void *user);

// One turn of a talk.
typedef struct hypr_message {
    // Who speaks: "system", "user", "assistant" or "tool".
    const char *role;
    // What is said.
    const char *content;
} hypr_message;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's version, "0.1.0" say.
const char *hypr_version(void);

// The name of a code, "model_not_found" say; "unknown" for a number that is no code.
const char *hypr_code_name(int code);

// A new client, which is connected to nothing; NULL where the library fails. Free it with hypr_free().
struct hypr_client *hypr_new(void);

// Frees a client; NULL is nothing to free. A call under way in another thread, or whose callback does this, is cancelled, and
// returns. No call may begin from here on.
void hypr_free(struct hypr_client *client);

// Looks for the daemon and asks whether it is well. `socket` is a path; NULL stands for $HYPRSTREAM_SOCKET, else the system's
// daemon, else the user's own. A daemon that is not running is not started, unless systemd holds its socket.
// Each later call opens a connection of its own, so a daemon that restarts needs no new hypr_connect().
enum hypr_code hypr_connect(struct hypr_client *client,
                            const char *socket);

// Continues a text. `model` is NULL for the default one. `options` is NULL or a JSON object: the field `sampling` of the native
// routes in hyprstreamd(8), as {"max_tokens": 100, "temperature": 0}. Returns when the answer is complete or has failed; the
// callback runs in this thread meanwhile.
enum hypr_code hypr_generate(struct hypr_client *client,
                             const char *model,
                             const char *prompt,
                             const char *options,
                             hypr_on_text on_text,
                             void *user);

// Answers the last turn of a talk of `count` messages, oldest first. All else is as with hypr_generate().
enum hypr_code hypr_chat(struct hypr_client *client,
                         const char *model,
                         const struct hypr_message *messages,
                         size_t count,
                         const char *options,
                         hypr_on_text on_text,
                         void *user);

// Cancels the call under way, from any thread but not from a signal handler; the call returns HYPR_CANCELLED at once, or
// HYPR_OK if its answer was complete. Without a call under way it does nothing, and a later call is not affected.
void hypr_cancel(struct hypr_client *client);

// How the client's last call ended.
enum hypr_code hypr_error_code(const struct hypr_client *client);

// What the client's last call failed with, for people; "" where it ended well. It is there until the client's next call.
const char *hypr_error_text(const struct hypr_client *client);

// After how many milliseconds the last call may be tried again; 0 where nobody knows.
uint64_t hypr_error_retry_ms(const struct hypr_client *client);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HYPRSTREAM_H */
