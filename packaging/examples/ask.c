/* Asks the language model on this machine and shows the answer as it comes.
 *
 *     cc ask.c -o ask $(pkg-config --cflags --libs hyprstream) -pthread
 *     ./ask "why is the sky blue?"
 *
 * Ctrl-C ends the answer. Exit codes: 0 well, 1 failure, 2 usage, 130 cancelled. */
#define _POSIX_C_SOURCE 200809L
#include <hyprstream.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static int show(const char *text, size_t length, void *user) {
    (void)user;
    size_t written = fwrite(text, 1, length, stdout);
    /* Whoever reads the output may be gone; then the rest of the answer is for nobody. */
    return written == length && fflush(stdout) == 0 ? 0 : 1;
}

/* Takes Ctrl-C in a thread of its own, since hypr_cancel() is not for signal handlers. */
static void *await_interrupt(void *client) {
    sigset_t interrupt;
    int which;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigwait(&interrupt, &which);
    hypr_cancel(client);
    return NULL;
}

int main(int argc, char **argv) {
    const char *socket = NULL, *model = NULL, *options = NULL;
    int flag;
    while ((flag = getopt(argc, argv, "s:m:o:")) != -1) {
        switch (flag) {
        case 's': socket = optarg; break;
        case 'm': model = optarg; break;
        case 'o': options = optarg; break;
        default: return 2;
        }
    }
    if (optind != argc - 1) {
        fprintf(stderr, "usage: ask [-s SOCKET] [-m MODEL] [-o OPTIONS] QUESTION\n");
        return 2;
    }

    hypr_client *client = hypr_new();
    if (client == NULL) {
        fprintf(stderr, "ask: no memory\n");
        return 1;
    }
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, NULL);
    pthread_t waiter;
    if (pthread_create(&waiter, NULL, await_interrupt, client) != 0) {
        fprintf(stderr, "ask: no thread\n");
        hypr_free(client);
        return 1;
    }

    hypr_code code = hypr_connect(client, socket);
    if (code == HYPR_OK) {
        const hypr_message messages[] = {{"user", argv[optind]}};
        code = hypr_chat(client, model, messages, 1, options, show, NULL);
        printf("\n");
    }
    if (code != HYPR_OK)
        fprintf(stderr, "ask: %s (%s)\n", hypr_error_text(client), hypr_code_name(code));

    /* The thread must not meet a client that is gone. */
    pthread_kill(waiter, SIGINT);
    pthread_join(waiter, NULL);
    hypr_free(client);
    return code == HYPR_OK ? 0 : code == HYPR_CANCELLED ? 130 : 1;
}
