/* accept.h - a process that has no descriptor left cuts new connections instead of ending.
 *
 * Owns:      accept4 of the whole process, for Unix sockets, when it fails with EMFILE.
 * Does not:  count or limit connections.
 *
 * Why: ZeroMQ ends the process (an assertion) where accepting on an ipc socket fails with EMFILE,
 * so whoever may connect could end any process by connecting often enough. It takes ECONNABORTED
 * for what it is: a peer that has gone.
 */
#ifndef GM_NET_ACCEPT_H
#define GM_NET_ACCEPT_H

/* Puts a descriptor aside for it. Call it before the first listening socket; again is harmless. */
void gm_accept_guard(void);

#endif
