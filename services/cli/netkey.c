/* netkey.c - `gemline netkey`: a key pair for a process that speaks TCP.
 *
 * Owns:      the command's options and output.
 * Does not:  know how a key file is made (net.c, common/net/book.h).
 */
#include <stdio.h>

#include "services/cli/cli.h"

static const struct gm_program program = {
    .name = "gemline netkey",
    .usage = "FILE",
    .about = "Makes a key pair for a process that speaks TCP: writes the secret key to FILE (mode\n"
             "0600) and prints the public key, which goes into the address book. Of a FILE that\n"
             "is there already it prints the public key.\n"
             "\n"
             "A line of the book: ROLE-INDEX ENDPOINT PUBLICKEY, as\n"
             "  shard-0 tcp://shard-0.example:5600 PUBLICKEY\n"
             "  client-0 - PUBLICKEY\n"
             "Each process reads it once, at start (--net FILE --key FILE); after a change,\n"
             "restart the processes.",
    .positionals_max = 1,
};

int gm_cmd_netkey(int argc, char **argv)
{
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    char nothing = 0, text[GM_CURVE_TEXT + 2] = "";
    const int code = gm_cli_parse(&program, argc, argv, &nothing, &args);
    if (code >= 0)
        return code;
    if (args.n != 1) {
        gm_fail(&err, GM_INVALID, "name the file of the secret key, as gemline netkey shard-0.key");
        return gm_cli_wrong(&err);
    }
    if (gm_cli_public_key(args.positionals[0], text, &err) != GM_OK)
        return gm_cli_fail(&err);
    text[GM_CURVE_TEXT] = '\n';
    return gm_cli_write(text, GM_CURVE_TEXT + 1, &err) == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
