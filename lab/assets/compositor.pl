#!/usr/bin/perl
# What a compositor does to get its card, and no more: asks logind for control of the session and for the card (as
# libseat does), and has the card open itself. `compositor /dev/dri/card0`. With SIGUSR1 it closes its own file, and
# logind goes on holding the card for the session.
use strict;
use Socket;

my ($node) = @ARGV;
my $device = (stat $node)[6] or die "no $node";
my ($major, $minor) = (($device >> 8) & 0xfff, $device & 0xff);

socket(my $bus, PF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
connect($bus, pack_sockaddr_un('/run/dbus/system_bus_socket')) or die "connect: $!";
my $heard = '';
sub hear { my ($count) = @_; while (length $heard < $count) { sysread($bus, $heard, 4096, length $heard) or die "bus: $!" } }
sub said { my ($count) = @_; hear($count); return substr($heard, 0, $count, '') }
sub line { while ((my $end = index $heard, "\r\n") < 0) { hear(1 + length $heard) } return $heard =~ s/^(.*?)\r\n//s ? $1 : '' }

# D-Bus specification, "Authentication Protocol" and "Message Format".
syswrite($bus, "\0AUTH EXTERNAL " . unpack('H*', $>) . "\r\n");
line() =~ /^OK/ or die 'the bus takes no one';
syswrite($bus, "NEGOTIATE_UNIX_FD\r\n");
line() =~ /^AGREE/ or die 'the bus passes no files';
syswrite($bus, "BEGIN\r\n");

my $serial = 0;
sub call {
    my ($to, $path, $interface, $member, $signature, $body) = @_;
    my $fields = '';
    for (['o', 1, $path], ['s', 2, $interface], ['s', 3, $member], ['s', 6, $to]) {
        my ($kind, $code, $value) = @$_;
        $fields .= "\0" x (-length($fields) % 8) . pack('C C a x V/a* x', $code, 1, $kind, $value);
    }
    $fields .= "\0" x (-length($fields) % 8) . pack('C C a x C/a* x', 8, 1, 'g', $signature) if $signature;
    my $head = pack('a C C C V V V', 'l', 1, 0, 1, length $body, ++$serial, length $fields) . $fields;
    syswrite($bus, $head . "\0" x (-length($head) % 8) . $body);
    while (1) {
        my $start = said(16);
        my ($kind, $length, $rest) = (ord substr($start, 1, 1), unpack('V', substr $start, 4), unpack('V', substr $start, 12));
        my $answer = said($rest + (-$rest % 8) + $length);
        return if $kind == 2;
        die "$member: " . $answer =~ tr/ -~//cdr if $kind == 3;
    }
}
call('org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'Hello', '', '');
my @session = ('org.freedesktop.login1', '/org/freedesktop/login1/session/auto', 'org.freedesktop.login1.Session');
call(@session, 'TakeControl', 'b', pack('V', 0));
call(@session, 'TakeDevice', 'uu', pack('VV', $major, $minor));

open(my $card, '+<', $node) or die "$node: $!";
$SIG{USR1} = sub { close $card };
open(my $ready, '>', '/tmp/compositor') or die "$!";
close $ready;
sleep 1000 while 1;
