/* seam_zmq.c - ZeroMQ without threads or sockets: see seam_zmq.h.
 *
 * Owns:      the queues.
 * Does not:  connect to anything.
 */
#include "tests/fuzz/seam_zmq.h"

#include <errno.h>
#include <zmq.h>

#include "tests/fuzz/must.h"

enum { SOCKETS_MAX = 512, ENDPOINT_MAX = 256 };

struct frame {
    uint8_t *data; /* owned */
    size_t size;
    bool more;
};

struct message {
    struct message *next;
    struct frame frames[SEAM_FRAMES_MAX + 1];
    size_t n, at;
};

struct sock {
    int type;
    char endpoint[ENDPOINT_MAX];
    struct message *first, *last;
    struct message out; /* being sent */
};

/* What a zmq_msg_t holds. */
_Static_assert(sizeof(struct frame) <= sizeof(zmq_msg_t), "a frame fits");

static struct sock *sockets[SOCKETS_MAX];
static size_t n_sockets;
static seam_zmq_sent *sent;
static uint32_t failing;

void seam_zmq_on_send(seam_zmq_sent *fn)
{
    sent = fn;
}

void seam_zmq_fail(uint32_t n)
{
    failing = n;
}

static struct sock *socket_of(const char *endpoint)
{
    for (size_t i = 0; i < n_sockets; i++)
        if (endpoint == NULL
                ? sockets[i]->type == ZMQ_ROUTER
                : sockets[i]->type == ZMQ_DEALER && strcmp(sockets[i]->endpoint, endpoint) == 0)
            return sockets[i];
    return NULL;
}

const char *seam_zmq_endpoint(size_t i)
{
    for (size_t k = 0; k < n_sockets; k++)
        if (sockets[k]->type == ZMQ_DEALER && i-- == 0)
            return sockets[k]->endpoint;
    return NULL;
}

static void frame_set(struct frame *f, const void *data, size_t size, bool more)
{
    *f = (struct frame){ malloc(size > 0 ? size : 1), size, more };
    must(f->data != NULL);
    if (size > 0)
        memcpy(f->data, data, size);
}

bool seam_zmq_push(const char *endpoint, const struct seam_frame *frames, size_t n)
{
    struct sock *s = socket_of(endpoint);
    if (s == NULL || n == 0)
        return false;
    struct message *m = calloc(1, sizeof *m);
    must(m != NULL);
    for (; m->n < n && m->n <= SEAM_FRAMES_MAX; m->n++)
        frame_set(&m->frames[m->n], frames[m->n].data, frames[m->n].size, m->n + 1 < n);
    m->frames[m->n - 1].more = false;
    if (s->last != NULL)
        s->last->next = m;
    else
        s->first = m;
    s->last = m;
    return true;
}

static void message_empty(struct message *m)
{
    while (m->n > m->at)
        free(m->frames[--m->n].data);
    m->n = m->at = 0;
}

/* ---- what libzmq has ------------------------------------------------------------------------- */

void *zmq_ctx_new(void)
{
    return malloc(1);
}

int zmq_ctx_term(void *context)
{
    free(context);
    return 0;
}

void *zmq_socket(void *context, int type)
{
    (void)context;
    if (n_sockets == SOCKETS_MAX) {
        errno = EMFILE;
        return NULL;
    }
    struct sock *s = calloc(1, sizeof *s);
    must(s != NULL);
    s->type = type;
    sockets[n_sockets++] = s;
    return s;
}

int zmq_close(void *socket)
{
    struct sock *s = socket;
    size_t i = 0;
    while (sockets[i] != s)
        i++;
    memmove(&sockets[i], &sockets[i + 1], (--n_sockets - i) * sizeof sockets[0]);
    while (s->first != NULL) {
        struct message *m = s->first;
        s->first = m->next;
        message_empty(m);
        free(m);
    }
    message_empty(&s->out);
    free(s);
    return 0;
}

int zmq_setsockopt(void *socket, int option, const void *value, size_t len)
{
    (void)socket, (void)option, (void)value, (void)len;
    return 0;
}

/* The descriptor is none: poll passes over it, and the events say what there is. */
int zmq_getsockopt(void *socket, int option, void *value, size_t *len)
{
    const struct sock *s = socket;
    const int x = option == ZMQ_FD ? -1 : ZMQ_POLLOUT | (s->first != NULL ? ZMQ_POLLIN : 0);
    memset(value, 0, *len);
    memcpy(value, &x, *len < sizeof x ? *len : sizeof x);
    return 0;
}

static int name(struct sock *s, const char *endpoint)
{
    if (strstr(endpoint, "://") == NULL || strlen(endpoint) >= sizeof s->endpoint) {
        errno = EINVAL;
        return -1;
    }
    memcpy(s->endpoint, endpoint, strlen(endpoint) + 1);
    return 0;
}

int zmq_bind(void *socket, const char *endpoint)
{
    return name(socket, endpoint);
}

int zmq_connect(void *socket, const char *endpoint)
{
    return name(socket, endpoint);
}

int zmq_errno(void)
{
    return errno;
}

const char *zmq_strerror(int number)
{
    return strerror(number);
}

/* ---- messages -------------------------------------------------------------------------------- */

static struct frame *frame_in(const zmq_msg_t *m)
{
    return (struct frame *)(uintptr_t)m;
}

int zmq_msg_init(zmq_msg_t *m)
{
    *frame_in(m) = (struct frame){ NULL, 0, false };
    return 0;
}

int zmq_msg_init_size(zmq_msg_t *m, size_t size)
{
    *frame_in(m) = (struct frame){ malloc(size > 0 ? size : 1), size, false };
    return frame_in(m)->data != NULL ? 0 : -1;
}

int zmq_msg_close(zmq_msg_t *m)
{
    free(frame_in(m)->data);
    frame_in(m)->data = NULL;
    return 0;
}

void *zmq_msg_data(zmq_msg_t *m)
{
    return frame_in(m)->data;
}

size_t zmq_msg_size(const zmq_msg_t *m)
{
    return frame_in(m)->size;
}

int zmq_msg_more(const zmq_msg_t *m)
{
    return frame_in(m)->more;
}

int zmq_msg_recv(zmq_msg_t *m, void *socket, int flags)
{
    struct sock *s = socket;
    struct message *first = s->first;
    (void)flags;
    if (first == NULL) {
        errno = EAGAIN;
        return -1;
    }
    free(frame_in(m)->data);
    *frame_in(m) = first->frames[first->at];
    first->frames[first->at++].data = NULL;
    if (first->at == first->n) {
        s->first = first->next;
        s->last = s->first != NULL ? s->last : NULL;
        free(first);
    }
    return (int)frame_in(m)->size;
}

/* The last frame sends the message. */
static int put(struct sock *s, const void *data, size_t size, int flags)
{
    struct message *m = &s->out;
    if (m->n == 0 && failing > 0) {
        failing--;
        errno = s->type == ZMQ_ROUTER ? EHOSTUNREACH : EAGAIN;
        return -1;
    }
    must(m->n < SEAM_FRAMES_MAX);
    frame_set(&m->frames[m->n++], data, size, (flags & ZMQ_SNDMORE) != 0);
    if ((flags & ZMQ_SNDMORE) != 0)
        return 0;
    struct message whole = *m;
    struct seam_frame frames[SEAM_FRAMES_MAX];
    for (size_t i = 0; i < whole.n; i++)
        frames[i] = (struct seam_frame){ whole.frames[i].data, whole.frames[i].size };
    m->n = 0;
    if (sent != NULL)
        sent(s->type == ZMQ_ROUTER ? NULL : s->endpoint, frames, whole.n);
    message_empty(&whole);
    return 0;
}

int zmq_msg_send(zmq_msg_t *m, void *socket, int flags)
{
    if (put(socket, frame_in(m)->data, frame_in(m)->size, flags) != 0)
        return -1;
    return zmq_msg_close(m);
}

int zmq_send(void *socket, const void *data, size_t size, int flags)
{
    return put(socket, data, size, flags);
}
