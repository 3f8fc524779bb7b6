// Nodemailer: HOST PORT SENDER RECIPIENT..., the message on standard input.
const nodemailer = require('nodemailer');
const [host, port, from, ...to] = process.argv.slice(2);
const transport = nodemailer.createTransport({ host, port: Number(port), name: 'client.example', ignoreTLS: true });
const raw = require('fs').readFileSync(0);
transport.sendMail({ envelope: { from, to, use8BitMime: true }, raw }, (error, info) => {
  if (error) {
    console.error(error.message);
    process.exit(1);
  }
  (info.rejectedErrors || []).forEach((refused) => console.log('refused:', refused.message));
});
