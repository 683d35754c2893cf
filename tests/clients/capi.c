/* What libhyprstream promises, seen from C: capi SOCKET MODEL BROKEN-SOCKET EMPTY-FOLDER. BROKEN-SOCKET hangs up on whoever
 * connects, without reading. Each failed promise is a line and ends the program with 1; at the end it says "all well". */
#define _POSIX_C_SOURCE 200809L
#include <hyprstream.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what)                                                                                        \
    do {                                                                                                   \
        if (!(what)) {                                                                                     \
            printf("line %d: %s\n", __LINE__, #what);                                                      \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

#define LONG "{\"max_tokens\": 400, \"ignore_eos\": true, \"temperature\": 0}"
#define SHORT "{\"max_tokens\": 8, \"temperature\": 0}"

struct said {
    hypr_client *client;
    size_t bytes, pieces, pieces_max;
    hypr_code within;
    int frees, cancels;
};

static int hear(const char *text, size_t length, void *user) {
    struct said *said = user;
    CHECK(length > 0 && strlen(text) == length);
    said->bytes += length;
    said->pieces++;
    return said->pieces_max != 0 && said->pieces >= said->pieces_max;
}

static int ask_again(const char *text, size_t length, void *user) {
    struct said *said = user;
    (void)text, (void)length;
    said->within = hypr_generate(said->client, NULL, "x", SHORT, hear, said);
    CHECK(said->within == HYPR_IN_USE && hypr_connect(said->client, NULL) == HYPR_IN_USE);
    return 1;
}

static int free_within(const char *text, size_t length, void *user) {
    struct said *said = user;
    (void)text, (void)length;
    if (said->frees++ == 0)
        hypr_free(said->client);
    return 0;
}

static void fails(hypr_client *client, hypr_code got, hypr_code wanted, const char *text) {
    if (got != wanted || strstr(hypr_error_text(client), text) == NULL) {
        printf("got %s: %s\nnot %s: ...%s...\n", hypr_code_name(got), hypr_error_text(client),
               hypr_code_name(wanted), text);
        exit(1);
    }
    CHECK(hypr_error_code(client) == wanted);
}

static void arguments(hypr_client *client, const char *model) {
    struct said said = {0};
    const char *odd = "ab\xff";
    fails(client, hypr_generate(client, model, NULL, NULL, hear, &said), HYPR_BAD_ARGUMENT, "prompt is NULL");
    fails(client, hypr_generate(client, model, odd, NULL, hear, &said), HYPR_BAD_ARGUMENT, "prompt is not UTF-8 at byte 2");
    fails(client, hypr_generate(client, odd, "x", NULL, hear, &said), HYPR_BAD_ARGUMENT, "model is not UTF-8");
    fails(client, hypr_generate(client, model, "x", odd, hear, &said), HYPR_BAD_ARGUMENT, "options is not UTF-8");
    fails(client, hypr_generate(client, model, "x", "{\"heat\": 1}", hear, &said), HYPR_BAD_ARGUMENT, "heat");
    fails(client, hypr_generate(client, model, "x", "[", hear, &said), HYPR_BAD_ARGUMENT, "options cannot be read");
    fails(client, hypr_generate(client, model, "x", NULL, NULL, NULL), HYPR_BAD_ARGUMENT, "on_text is NULL");
    fails(client, hypr_generate(client, model, "x", "{\"temperature\": 77}", hear, &said), HYPR_BAD_REQUEST, "temperature");
    fails(client, hypr_generate(client, "gpt-9", "x", NULL, hear, &said), HYPR_MODEL_NOT_FOUND, "gpt-9");
    fails(client, hypr_chat(client, model, NULL, 1, NULL, hear, &said), HYPR_BAD_ARGUMENT, "messages is NULL");
    const hypr_message bad[] = {{"user", "x"}, {"king", "x"}, {NULL, "x"}, {"user", NULL}, {"user", odd}};
    fails(client, hypr_chat(client, model, bad, 0, NULL, hear, &said), HYPR_BAD_ARGUMENT, "count");
    fails(client, hypr_chat(client, model, bad, (size_t)-1, NULL, hear, &said), HYPR_BAD_ARGUMENT, "count");
    fails(client, hypr_chat(client, model, bad, 2, NULL, hear, &said), HYPR_BAD_ARGUMENT, "role is none of");
    fails(client, hypr_chat(client, model, bad + 2, 1, NULL, hear, &said), HYPR_BAD_ARGUMENT, "role is NULL");
    fails(client, hypr_chat(client, model, bad + 3, 1, NULL, hear, &said), HYPR_BAD_ARGUMENT, "content is NULL");
    fails(client, hypr_chat(client, model, bad + 4, 1, NULL, hear, &said), HYPR_BAD_ARGUMENT, "content is not UTF-8");
    CHECK(said.pieces == 0);
}

static void no_client(void) {
    CHECK(hypr_connect(NULL, NULL) == HYPR_BAD_ARGUMENT);
    CHECK(hypr_generate(NULL, NULL, "x", NULL, hear, NULL) == HYPR_BAD_ARGUMENT);
    CHECK(hypr_chat(NULL, NULL, NULL, 0, NULL, hear, NULL) == HYPR_BAD_ARGUMENT);
    CHECK(hypr_error_code(NULL) == HYPR_BAD_ARGUMENT && hypr_error_retry_ms(NULL) == 0);
    CHECK(strcmp(hypr_error_text(NULL), "client is NULL") == 0);
    hypr_cancel(NULL);
    hypr_free(NULL);
    CHECK(strcmp(hypr_code_name(HYPR_MODEL_NOT_FOUND), "model_not_found") == 0);
    CHECK(strcmp(hypr_code_name(-7), "unknown") == 0 && strcmp(hypr_code_name(9999), "unknown") == 0);
    CHECK(strchr(hypr_version(), '.') != NULL);
}

static void no_daemon(const char *broken, const char *folder) {
    char path[4096];
    struct said said = {0};
    hypr_client *client = hypr_new();
    CHECK(client != NULL && hypr_error_code(client) == HYPR_OK && *hypr_error_text(client) == 0);
    fails(client, hypr_generate(client, NULL, "x", NULL, hear, &said), HYPR_NOT_CONNECTED, "hypr_connect()");
    snprintf(path, sizeof path, "%s/nobody.sock", folder);
    fails(client, hypr_connect(client, path), HYPR_UNREACHABLE, "no daemon answers at");
    fails(client, hypr_connect(client, ""), HYPR_BAD_ARGUMENT, "socket is empty");
    fails(client, hypr_connect(client, "/\xff"), HYPR_BAD_ARGUMENT, "socket is not UTF-8");
    memset(path, 'x', 300);
    path[300] = 0;
    fails(client, hypr_connect(client, path), HYPR_UNREACHABLE, "no daemon answers at");
    /* The default places, none of which is there. */
    setenv("XDG_RUNTIME_DIR", folder, 1);
    fails(client, hypr_connect(client, NULL), HYPR_UNREACHABLE, "none may be started");
    fails(client, hypr_connect(client, broken), HYPR_CONNECTION_LOST, "closed the connection");
    hypr_free(client);
}

static void *cancel(void *user) {
    struct said *said = user;
    struct timespec pause = {0, 200000000};
    nanosleep(&pause, NULL);
    while (said->cancels++ < 100)
        hypr_cancel(said->client);
    return NULL;
}

static void ended_early(hypr_client *client, const char *socket, const char *model) {
    struct said said = {.pieces_max = 3};
    fails(client, hypr_generate(client, model, "hello", LONG, hear, &said), HYPR_CANCELLED, "by the callback");
    CHECK(said.pieces == 3);

    /* Nobody is there to be cancelled; the next call does not mind. */
    hypr_cancel(client);
    said = (struct said){.client = client};
    CHECK(hypr_generate(client, model, "hello", SHORT, hear, &said) == HYPR_OK && said.pieces > 0);
    CHECK(hypr_error_code(client) == HYPR_OK && *hypr_error_text(client) == 0);

    /* From another thread, in the middle of calls: each ends as cancelled, or complete. */
    pthread_t thread;
    said = (struct said){.client = client};
    CHECK(pthread_create(&thread, NULL, cancel, &said) == 0);
    hypr_code code = HYPR_OK;
    for (int i = 0; i < 1000 && code == HYPR_OK; i++)
        code = hypr_generate(client, model, "hello", LONG, hear, &said);
    fails(client, code, HYPR_CANCELLED, "by the caller");
    CHECK(pthread_join(thread, NULL) == 0);

    said = (struct said){.client = client};
    fails(client, hypr_generate(client, model, "hello", LONG, ask_again, &said), HYPR_CANCELLED, "by the callback");
    CHECK(said.within == HYPR_IN_USE);

    /* Freed while it answers. */
    said = (struct said){.client = hypr_new()};
    CHECK(hypr_connect(said.client, socket) == HYPR_OK);
    CHECK(hypr_generate(said.client, model, "hello", LONG, free_within, &said) == HYPR_CANCELLED);
    CHECK(said.frees == 1);
}

/* A daemon that takes the connection and says nothing: hypr_cancel() does not wait for it. */
static void silent(const char *folder) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/silent.sock", folder);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(listener, 5) == 0);
    struct said said = {.client = hypr_new()};
    pthread_t thread;
    time_t begun = time(NULL);
    CHECK(pthread_create(&thread, NULL, cancel, &said) == 0);
    fails(said.client, hypr_connect(said.client, address.sun_path), HYPR_CANCELLED, "by the caller");
    CHECK(time(NULL) - begun < 20);
    CHECK(pthread_join(thread, NULL) == 0);
    fails(said.client, hypr_generate(said.client, NULL, "x", NULL, hear, &said), HYPR_NOT_CONNECTED, "");
    hypr_free(said.client);
    close(listener);
}

/* A daemon that goes away while a long request is written must not end the program by SIGPIPE. */
static void hung_up(const char *socket, const char *broken, const char *link) {
    const size_t length = 4 << 20;
    char *prompt = malloc(length + 1);
    CHECK(prompt != NULL);
    memset(prompt, 'x', length);
    prompt[length] = 0;
    struct said said = {0};
    hypr_client *client = hypr_new();
    remove(link);
    char command[8192];
    snprintf(command, sizeof command, "ln -sfn '%s' '%s'", socket, link);
    CHECK(system(command) == 0);
    CHECK(hypr_connect(client, link) == HYPR_OK);
    snprintf(command, sizeof command, "ln -sfn '%s' '%s'", broken, link);
    CHECK(system(command) == 0);
    for (int i = 0; i < 20; i++)
        fails(client, hypr_generate(client, NULL, prompt, NULL, hear, &said), HYPR_CONNECTION_LOST, "closed");
    hypr_free(client);
    free(prompt);
}

int main(int argc, char **argv) {
    CHECK(argc == 5);
    const char *socket = argv[1], *model = argv[2], *broken = argv[3], *folder = argv[4];
    char link[4096];
    no_client();
    no_daemon(broken, folder);
    hypr_client *client = hypr_new();
    CHECK(hypr_connect(client, socket) == HYPR_OK);
    arguments(client, model);
    ended_early(client, socket, model);
    snprintf(link, sizeof link, "%s/link.sock", folder);
    hung_up(socket, broken, link);
    silent(folder);
    struct said said = {0};
    const hypr_message talk[] = {{"system", "Be brief."}, {"user", "hello"}};
    CHECK(hypr_chat(client, model, talk, 2, SHORT, hear, &said) == HYPR_OK && said.bytes > 0);
    hypr_free(client);
    printf("all well\n");
    return 0;
}
