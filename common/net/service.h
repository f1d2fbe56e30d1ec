/* service.h - the loop every process is: wait, take a bounded number of messages, then one step.
 *
 * Owns:      the loop, start-up order (log, stop signals, bus, rpc, Health, HELLO each second to
 * the orchestrator), exit codes. Does not:  know what a step does.
 */
#ifndef GM_NET_SERVICE_H
#define GM_NET_SERVICE_H

#include "common/net/book.h"
#include "common/net/rpc.h"

#define GM_RELEASE "0.1.0"

enum { GM_BURST_MAX = 256, GM_HELLO_MS = 1000 };

struct gm_service {
    const char *role; /* "shard" */
    uint32_t index;
    const char *run_dir; /* sockets are run_dir/ROLE-INDEX.sock (gm_endpoint) */
    const struct gm_method *methods;
    void *self;
    /* A ring message (kinds >= 16). A failure is logged and dropped: the handler has told whom it
     * concerns. */
    enum gm_status (*on_message)(void *self, const struct gm_msg *msg, struct gm_err *err);
    /* The work; *again = true if there is more to do at once. */
    enum gm_status (*step)(void *self, bool *again, struct gm_err *err);
    /* Milliseconds until step must run without a message; -1: never. NULL: never. */
    int (*next_ms)(void *self);
    /* Fills what Health.Check and HELLO say (role, index, boot are filled already). */
    void (*health)(void *self, Gm__HealthReply *health);
    void (*hello)(void *self, Gm__Hello *hello);
    /* A stop signal came: ends what runs, takes no more; true when the process may end. Asked again
     * each round; a second signal ends it at once. NULL: the first one does. */
    bool (*drain)(void *self);
    /* Extra descriptors (Redis): fills at most `max`, returns how many; then called back with
     * revents. NULL: none. */
    int (*fds)(void *self, struct pollfd *fds, int max);
    void (*on_fds)(void *self, const struct pollfd *fds, int n);
    const struct gm_net_options *net_options; /* NULL: over the sockets of run_dir */
    /* set by gm_service_open */
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    struct gm_net *net;             /* NULL: without an address book */
    char endpoint[GM_ENDPOINT_MAX]; /* of this process, for others */
};

/* "ipc://RUN_DIR/ROLE-INDEX.sock" */
enum gm_status gm_endpoint(char out[GM_ENDPOINT_MAX], const char *run_dir, const char *role,
                           uint32_t index, struct gm_err *err);
/* The same where net is NULL, else what the address book says. GM_NOT_FOUND: it names no such
 * process, or none that listens. */
enum gm_status gm_net_endpoint(const struct gm_net *net, char out[GM_ENDPOINT_MAX],
                               const char *run_dir, const char *role, uint32_t index,
                               struct gm_err *err);
enum gm_status gm_service_endpoint(const struct gm_service *s, char out[GM_ENDPOINT_MAX],
                                   const char *role, uint32_t index, struct gm_err *err);
/* Whether there is such a process: it has a socket in the run directory, or a line in the book. */
bool gm_net_has(const struct gm_net *net, const char *run_dir, const char *role, uint32_t index);
enum gm_status gm_service_open(struct gm_service *s, struct gm_err *err);
/* Runs until a stop signal. GM_OK then. */
enum gm_status gm_service_run(struct gm_service *s, struct gm_err *err);
/* Says HELLO to the orchestrator now (it is said each second anyway): call it when `ready` changes.
 */
void gm_service_hello(struct gm_service *s);
void gm_service_close(struct gm_service *s);

#endif
